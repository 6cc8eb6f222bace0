"""Small wrong changes to the product, each of which a test must notice.

    python -m tests.mutation                  all of them, a few seconds each
    python -m tests.mutation --only=batcher   those whose name has this (a regular expression)
    python -m tests.mutation --list           their names

Each change is made in a temporary copy of the tree, where its tests then run: killed if one fails, survived if all
pass. Before that the tests must pass without any change. Exit code 1 if a change survives or no longer applies.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time
from typing import NoReturn

import pytest

import mocogan_tf  # noqa: F401  Before TensorFlow, which it asks for oneDNN's convolutions.
from tests.mutations import TABLE, Change

ROOT = pathlib.Path(__file__).parents[1]
COPIED = ("mocogan_tf", "export", "serving", "tests", "docs", "pyproject.toml", "setup.py", "README.md")
COPIED += ("train.py", "sample.py", "evaluate.py", "prepare.py")
LINKED = ("pretrained", "examples", "benchmarks")
SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a change: "killed", "survived", or why it could not be tried; and the seconds it took."""

    word: str
    seconds: float


def changed(change: Change, root: pathlib.Path = ROOT) -> str:
    """Returns the text of the change's file with the change.

    Raises:
        ValueError: The old text does not occur exactly once.
    """
    text = (root / change.file).read_text()
    if (found := text.count(change.old)) != 1:
        raise ValueError(f"{change.name}: its old text must occur once in {change.file}. Found: {found} times")
    return text.replace(change.old, change.new)


def copy_tree(to: pathlib.Path) -> None:
    """Copies what tests run on; links what is large and only read."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy2(source, to / name)
    for name in LINKED:
        (to / name).symlink_to(ROOT / name)


def failure(folder: pathlib.Path, tests: list[str]) -> str:
    """Runs tests in a copy of the tree, up to the first that fails; returns what pytest says of that, or nothing."""
    log = folder / "output.txt"
    pid = os.fork()
    if not pid:
        _run_pytest(folder, tests, log)
    end, status = time.monotonic() + SECONDS, None
    while status is None and time.monotonic() < end:
        found, code = os.waitpid(pid, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if found else None
        time.sleep(0.05)
    if status is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return f"They did not end in {SECONDS:.0f} s."
    said = log.read_text(errors="replace")[-3000:]
    if status not in (0, 1):  # Such as a test that is no longer there: that notices nothing.
        sys.exit(f"pytest could not run {' '.join(tests)}:\n{said}")
    return said if status else ""


def _run_pytest(folder: pathlib.Path, tests: list[str], log: pathlib.Path) -> NoReturn:
    """Runs in a forked process, which has imported what takes long and nothing of this project."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] in COPIED]:
        del sys.modules[name]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def attempt(change: Change, folder: pathlib.Path) -> Outcome:
    """Makes a change in the copy, runs its tests and takes the change back."""
    path, begin = folder / change.file, time.monotonic()
    before = path.read_text()
    try:
        path.write_text(changed(change, folder))
        noticed = bool(failure(folder, list(change.tests)))
    except ValueError as error:
        return Outcome(str(error), 0.0)
    finally:
        path.write_text(before)
    return Outcome("killed" if noticed else "survived", time.monotonic() - begin)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 if every change was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression that the names of the changes to try have")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    options = parser.parse_args(argv)
    chosen = [change for change in TABLE if re.search(options.only, change.name)]
    if options.list or not chosen:
        print("\n".join(change.name for change in chosen) or f"no change has {options.only!r} in its name")
        return 0 if chosen else 1
    import tensorflow  # noqa: F401 Once, before the processes that are forked; a --list need not wait for it.

    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        copy_tree(folder)
        tests = sorted({test for change in chosen for test in change.tests})
        if said := failure(folder, tests):
            print(f"{said}\nThe tests fail without any change: python -m pytest {' '.join(tests)}")
            return 1
        for change in chosen:
            outcome = attempt(change, folder)
            wrong += outcome.word != "killed"
            print(f"{outcome.word:9} {outcome.seconds:6.1f} s  {change.name}", flush=True)
    print(f"{len(chosen) - wrong} of {len(chosen)} changes were noticed")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
