"""The files below a folder, in natural order, whatever links and names are among them."""

from __future__ import annotations

import os
import pathlib
import re


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key by which `2.png` comes before `10.png`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def without_wrapper(folder: pathlib.Path) -> pathlib.Path:
    """Returns the one folder that an archive consists of, or else the folder itself."""
    entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the person's: dot files, and what systems put beside their files."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def walk(root: pathlib.Path, prefix: str = "") -> tuple[dict[str, pathlib.Path], list[tuple[str, str]]]:
    """Lists the visible files below a folder, those that links lead to included.

    Args:
        root: The folder.
        prefix: What the names begin with, without the slash.

    Returns:
        The files by their path below the root, and (path, reason) of each folder that is left out: it cannot be read,
        or is a link to a folder above it.
    """
    files: dict[str, pathlib.Path] = {}
    left_out: list[tuple[str, str]] = []

    def visit(folder: pathlib.Path, prefix: str, ancestors: frozenset[tuple[int, int]]) -> None:
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
        except OSError as error:
            left_out.append((prefix or str(folder), why(error)))
            return
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:
            left_out.append((prefix, "a symbolic link that leads back to a folder above it"))
            return
        for entry in entries:
            # A name that is no UTF-8 is a path like any other, but must be written into text files.
            shown = entry.name.encode("utf-8", "backslashreplace").decode()
            name = f"{prefix}/{shown}" if prefix else shown
            if is_hidden(entry.name):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:  # A link that leads to itself; opening the file will say so.
                is_folder = False
            if is_folder:
                visit(folder / entry.name, name, ancestors | {identity})
            else:
                files[name] = folder / entry.name

    visit(root, prefix, frozenset())
    return files, left_out


def why(error: OSError) -> str:
    """Returns an error of the file system in a few words without the path."""
    return (error.strerror or type(error).__name__).lower()
