"""Trains the tiny networks in one process after another, each of which is killed; then once more, undisturbed.

A script, because a process that has used TensorFlow cannot be forked: this one has only imported it.
python -m tests.support.killing FOLDER SEED KILLS
"""

import os
import pathlib
import random
import signal
import sys
import time
import traceback

import tensorflow as tf

from mocogan_tf.config import Config
from mocogan_tf.training import callbacks, checkpoints, loop
from tests.support.tiny import TINY

# Moments that chance would seldom hit, each in the second checkpoint after a start, the first being progress.
FORCED = ("weights half written", "before the first rename", "between the renames", "old ones going", "half a line")


def make_config(folder, steps):
    return Config(
        **{**TINY, "noise_sigma": 0.1},
        cache_dir=str(folder / "cache"),
        steps=steps,
        log_every=1,
        sample_every=10**6,
        checkpoint_every=3,
        evaluate_every=0,
        keep_checkpoints=2,
        deterministic=True,
    )


def before(owner, name, act):
    """Has `act` called with the arguments of a function before each of its calls."""
    function = getattr(owner, name)

    def replacement(*args, **kwargs):
        act(*args, **kwargs)
        return function(*args, **kwargs)

    setattr(owner, name, replacement)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment):
    """Makes this process kill itself at a forced moment."""
    saves = []
    before(checkpoints, "save", lambda *args, **kwargs: saves.append(None))

    def hash_weights(path):
        if moment == "weights half written" and len(saves) == 2:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            die()

    def rename(source, destination):
        suffix = {"before the first rename": ".h5", "between the renames": ".json"}.get(moment)
        if len(saves) == 2 and suffix == pathlib.Path(destination).suffix:
            die()

    def remove_old(run_dir, *args):
        if moment == "old ones going" and len(saves) == 2:
            checkpoints.paths(run_dir, checkpoints.steps(run_dir)[0])[1].unlink()
            die()

    def log_line(log, *args):
        if moment == "half a line" and len(saves) == 2:
            with open(log.path, "a") as file:
                file.write('{"step": 1, "lo')
            die()

    before(checkpoints, "sha256", hash_weights)
    before(os, "replace", rename)
    before(checkpoints, "_remove_old", remove_old)
    before(callbacks.JsonLog, "on_step", log_line)


def start(folder, run_dir, steps, moment=None):
    """Trains in a forked process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    out = os.open(folder / "out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        arm(moment)
        # Half of a process's time would go into making a graph fast that runs for a second.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        os._exit(loop.train(make_config(folder, steps), run_dir))
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait_for_a_step(log, pid):
    """Returns when a process has written its first line, after it has cut the log; or when the process has ended."""
    inode, size = None, 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if log.exists():
            now = log.stat()
            if now.st_ino != inode:  # Cut: written anew under another name and renamed.
                inode, size = now.st_ino, now.st_size
            elif now.st_size > size:
                return
        time.sleep(0.005)


def main(folder, seed, kills):
    rng = random.Random(seed)
    moments = [*FORCED, *["random"] * (kills - len(FORCED))]
    rng.shuffle(moments)
    run_dir = folder / "killed"
    log = run_dir / "log.jsonl"
    for moment in moments:
        pid = start(folder, run_dir, 10**6, moment)
        if moment == "random":
            wait_for_a_step(log, pid)
            time.sleep(rng.uniform(0, 0.7))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(
                f"{moment}: it was not killed but ended with {status}:\n{(folder / 'out.txt').read_text()[-3000:]}"
            )
        print(f"killed: {moment}; checkpoints: {checkpoints.steps(run_dir)}", flush=True)
    steps = checkpoints.steps(run_dir)[-1] + 4
    for last in (run_dir, folder / "whole"):
        _, status = os.waitpid(start(folder, last, steps), 0)
        if status:
            sys.exit(f"{last.name}: {status}\n{(folder / 'out.txt').read_text()[-3000:]}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
