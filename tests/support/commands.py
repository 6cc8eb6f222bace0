"""Runs the project's commands as a user does, and reads what they say.

`run` starts each in a process forked from one that has imported TensorFlow, which takes seconds, and nothing of this
project; `start` starts a process of its own, for what depends on when something is imported or on signals.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--dataset=shapes",
    "--profile=smoke",
    "--num_clips=8",
    "--image_size=32",
    "--video_length=4",
    "--ngf=4",
    "--ndf=4",
    "--precision=float32",
)


def environment():
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}


def start(*arguments, **options):
    """Starts Python with these arguments; its outputs are text in pipes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment(), **pipes, **options)


@functools.cache
def _forker():
    """The process that forks; it ends with this one."""
    command = [sys.executable, "-m", "tests.support.commands"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes)
    atexit.register(process.communicate)
    return process


def run(script, *arguments, cwd=ROOT):
    """Runs one of the project's scripts to its end; returns exit code, output and errors."""
    forker = _forker()
    forker.stdin.write(json.dumps([str(cwd), [str(ROOT / script), *arguments]]) + "\n")
    forker.stdin.flush()
    return tuple(json.loads(forker.stdout.readline()))


def complaint(err):
    """The one line that an error is; TensorFlow's own lines before it do not count."""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "FATAL Flags parsing error"))]
    assert len(lines) == 1, err
    return err[err.index(lines[0]) :].strip()


def _become(cwd, command, out, err):
    """Runs a script in this process, which has just been forked, and ends with its code."""
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    os.chdir(cwd)
    sys.argv, code = command, 0
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main():
    """Answers each line of the input, a folder and a command, with exit code, output and errors, as JSON."""
    import tensorflow  # noqa: F401 Imported only: a process that has used it cannot be forked.

    sys.path.insert(0, str(ROOT))
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            pid = os.fork()
            if not pid:
                _become(*json.loads(line), out, err)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            for file in (out, err):
                file.seek(0)
            print(json.dumps([code, out.read(), err.read()]), flush=True)


if __name__ == "__main__":
    main()
