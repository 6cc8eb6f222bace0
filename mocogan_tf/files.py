"""Files that are whole or absent: locks, writes by renaming, checksums, and logs of JSON lines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def held(path: pathlib.Path, complaint: str) -> Iterator[None]:
    """Holds a lock file as long as it is entered; a process that dies lets go of it.

    Args:
        path: The file, in a folder that exists; it stays behind, empty.
        complaint: What is said where another process holds it.

    Raises:
        ValueError: Another process holds it.
        OSError: It cannot be written.
    """
    with open(path, "w") as lock:
        try:
            import fcntl  # POSIX only; elsewhere two processes at once are not noticed.

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except BlockingIOError as error:
            raise ValueError(complaint) from error
        yield


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file under a temporary name and renames it, so that it is never half there.

    Raises:
        OSError: It cannot be written; what was there before is untouched.
    """
    partial = path.with_name(f"writing-{path.name}")
    try:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: pathlib.Path) -> str:
    """Returns a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(path: pathlib.Path) -> list[Any]:
    """Returns the values in a file of JSON lines, without a last line that a kill cut off; none if there is no file."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
