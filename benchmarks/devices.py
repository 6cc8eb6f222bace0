"""What several devices and machines cost on one machine: python -m benchmarks.devices

Trains the same global batches on one device, on two virtual devices of one process, and in two processes joined by
TF_CONFIG, and compares seconds and processor seconds per step. One device already fills all cores, so nothing can
become faster; the ratios show the cost of splitting and summing.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
PORTS = (23461, 23462)
WARM_UP = 4  # Steps before the first that counts.


def train(folder, name, flags, steps, tf_config=None):
    """Starts a run in a process of its own and sends its output to `NAME.txt`."""
    command = [
        *[sys.executable, "train.py", f"--run_dir={folder / name}", f"--cache_dir={folder / 'cache'}"],
        *["--log_every=1", "--checkpoint_every=100000", "--sample_every=100000", "--evaluate_every=0"],
        *[f"--steps={steps}", *flags],
    ]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    if tf_config:
        environ["TF_CONFIG"] = json.dumps(tf_config)
    with open(folder / f"{name}.txt", "a") as out:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=environ)


def processor_seconds(process):
    """User and system time of a running process, in seconds."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lines_of(log):
    """The objects of a log.jsonl; none if the file does not exist yet."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def measure(processes, log, steps):
    """Returns the median seconds and the mean processor seconds per step, of all processes together."""
    marks = []
    while len(marks) < 2:
        if any(process.poll() not in (None, 0) for process in processes):
            sys.exit(f"a run has failed; see {log.parent}.txt")
        done = len(lines_of(log))
        if done >= (WARM_UP, steps - 1)[len(marks)]:
            marks.append((done, sum(map(processor_seconds, processes))))
        time.sleep(0.02)
    for process in processes:
        process.wait()
    seconds = statistics.median(line["seconds_per_step"] for line in lines_of(log)[WARM_UP:-1])
    (first, before), (last, after) = marks
    return seconds, (after - before) / (last - first)


def main():
    """Measures the three ways in turn, and prints their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("flags", nargs="*", help="train.py's flags, after --; default: the preset plain on shapes")
    options = parser.parse_args()
    flags = options.flags or [
        "--dataset=shapes",
        "--profile=cpu",
        "--preset=plain",
        "--num_clips=64",
        "--precision=float32",
    ]
    addresses = [f"127.0.0.1:{port}" for port in PORTS]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        results = {}
        one = [train(folder, "one", flags, options.steps)]
        results["one device"] = measure(one, folder / "one" / "log.jsonl", options.steps)
        two = [train(folder, "two", [*flags, "--cpu_devices=2"], options.steps)]
        results["two devices"] = measure(two, folder / "two" / "log.jsonl", options.steps)
        workers = [
            train(
                folder,
                f"worker{i}",
                flags,
                options.steps,
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}},
            )
            for i in range(2)
        ]
        results["two processes"] = measure(workers, folder / "worker0" / "log.jsonl", options.steps)
    first = results["one device"]
    print(f"{'':15} seconds per step      processor seconds per step   (ratio to one device)")
    for case, (seconds, processor) in results.items():
        print(
            f"{case:15} {seconds:.3f} ({seconds / first[0]:.2f})          {processor:.3f} ({processor / first[1]:.2f})"
        )


if __name__ == "__main__":
    main()
