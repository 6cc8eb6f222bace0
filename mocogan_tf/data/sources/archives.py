"""Unpacks zip and tar files, which a stranger may have made, into new folders.

An archive is refused as a whole if a member would land outside the folder, or if it unpacks to very much more than its
own size. Links, devices, encrypted members and second members of a name are left out.
"""

from __future__ import annotations

import lzma
import os
import pathlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

# Clips are compressed already, so an archive of them is hardly smaller.
MAX_RATIO = 200
RATIO_MATTERS_ABOVE = 64 * 2**20
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)


def unpack(archive: pathlib.Path, folder: pathlib.Path) -> list[tuple[str, str]]:
    """Unpacks an archive into a new folder.

    Args:
        archive: A zip or tar file, compressed or not.
        folder: Made here, and removed after an error.

    Returns:
        Members that were left out, and why.

    Raises:
        ValueError: The archive is damaged or refused.
        OSError: The disk is full or not writable.
    """
    folder.mkdir(parents=True)
    try:
        left_out = _unpack(archive, folder)
        if not left_out and not any(folder.iterdir()):
            raise ValueError("the archive is empty, or no zip or tar file")
        return left_out
    except BaseException as error:
        shutil.rmtree(folder)
        # gzip and lzma report damage as an OSError without a number, zip and tar as errors of their own.
        without_number = isinstance(error, OSError) and error.errno is None
        if without_number or isinstance(error, (*_DAMAGE, EOFError, NotImplementedError, RuntimeError)):
            raise ValueError("the archive is damaged, or no zip or tar file") from error
        raise


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> list[tuple[str, str]]:
    left_out = []
    allowed = max(RATIO_MATTERS_ABOVE, MAX_RATIO * archive.stat().st_size)
    allowed = min(allowed, shutil.disk_usage(folder).free)
    for member, size, problem, open_member in _members(archive):
        parts = pathlib.PurePosixPath(member.replace("\\", "/")).parts
        if ".." in parts or member.startswith(("/", "\\")) or (len(member) > 1 and member[1] == ":"):
            raise ValueError(f"refused: its member {member!r} would be written outside of it")
        if problem:
            left_out.append((member, problem))
            continue
        if size > allowed:
            raise ValueError(
                f"refused: it unpacks to more than {MAX_RATIO} times its size, or to more than the disk has free"
            )
        path = folder.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            target = open(path, "xb")
        except (FileExistsError, NotADirectoryError):  # As `tar -r` leaves it, or a file and a folder of one name.
            left_out.append((member, "a second member of this name"))
            continue
        with target, open_member() as source:
            allowed -= _copy(source, target, size)
        # Members get the time of their archive, so that a new archive means new clips.
        os.utime(path, ns=(archive.stat().st_mtime_ns, archive.stat().st_mtime_ns))
    return left_out


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> int:
    """Copies a member, but never more than the size in the archive's table, which may be false."""
    copied = 0
    while block := source.read(min(2**20, size - copied + 1)):
        copied += len(block)
        if copied > size:
            raise ValueError("refused: a member is longer than the archive says")
        target.write(block)
    return copied


def _members(archive: pathlib.Path) -> Iterator[tuple[str, int, str, Any]]:
    """Yields (name, size, why it is left out or "", function that opens it) for every member that is no folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
                    problem = "a symbolic link" if is_link else "encrypted" if info.flag_bits & 1 else ""
                    yield info.filename, info.file_size, problem, lambda info=info: opened.open(info)
        return
    with tarfile.open(archive) as tar:
        for entry in tar:
            if not entry.isdir():
                problem = "" if entry.isreg() else "a link or a device"
                yield entry.name, entry.size, problem, lambda entry=entry: tar.extractfile(entry)
