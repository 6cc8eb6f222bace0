"""Starts the workers of a cluster on this machine: `train.py` with TF_CONFIG, one process each."""

import json
import os
import pathlib
import subprocess
import sys

from tests.support.ports import free_ports

ROOT = pathlib.Path(__file__).parents[2]


def start(run_dirs, flags):
    """Starts one worker per run directory; the first is the chief.

    Args:
        run_dirs: One `--run_dir` per worker.
        flags: `train.py`'s other flags, a list per worker or one for all.

    Returns:
        list of `subprocess.Popen`, outputs as text.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(run_dirs))]
    if isinstance(flags[0], str):
        flags = [flags] * len(run_dirs)
    return [
        subprocess.Popen(
            [sys.executable, "train.py", f"--run_dir={run_dir}", *own],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "CUDA_VISIBLE_DEVICES": "-1",
                "PYTHONUNBUFFERED": "1",
                "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}),
            },
        )
        for i, (run_dir, own) in enumerate(zip(run_dirs, flags, strict=True))
    ]


def wait(processes, timeout=900):
    """Waits for all; returns exit codes, outputs and errors. Kills those that do not end."""
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            results.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return tuple(zip(*results, strict=True))
