"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator


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
