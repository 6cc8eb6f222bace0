"""Clips from latents, our engine against others on the same weights: python -m benchmarks.inference [--json]

`engine` is what the server runs, on the provider and in the precision that it chooses; `engine float32` the same in
float32. `model.onnx` is the bundle's whole graph in a plain ONNX Runtime session. The rivals (--against): onnxruntime,
on the model as tf2onnx alone converts it; tensorflow, the bundle's SavedModel, Keras `predict`, and Keras under the
policy mixed_bfloat16; torch (extra `bench`), eager, channels_last and in bfloat16; compiled, by torch.compile. Each
library has a process of its own, on all processors of this one, and must first make the same clips. The sides take
turns. For each batch and length, `ratio` is the fastest rival's median over the engine's, both in their best precision;
`ratio_float32` is the same in float32; `share_of_peak` is the engine's rate over the best of matrix products. On a
machine with other work, pin the command to one processor and time that: taskset -c 1 ... --processor_time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.inference_sides import BEST, FLOAT32, RIVALS, WHOLE

TOLERANCE = 1e-3  # For values in [-1, 1]: float32 sums in another order.
HALF_PSNR = 40.0  # Decibels, for bfloat16.
REST = 0.2  # Seconds before a run, in which the threads of the side before fall asleep.


class Library:
    """A library's process. Made, it loads; `sides` waits for that."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        command = [sys.executable, "-m", "benchmarks.inference_sides", name, str(folder)]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.sides: list[str] = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended; what it wrote stands above.")
        return json.loads(line)

    def ask(self, **asked: Any) -> Any:
        """Sends a request and returns the answer."""
        assert self.process.stdin is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def is_half(side: str) -> bool:
    """Whether a rival's side computes in half precision."""
    return side.endswith("bfloat16")


def check_alike(clips: dict[str, Any]) -> dict[str, float]:
    """Returns the largest difference of each side from `engine float32`. Raises SystemExit if one is too large."""
    differences = {}
    for side, clip in clips.items():
        error = np.abs(clip - clips[FLOAT32])
        differences[side] = float(error.max())
        psnr = 10 * np.log10(4 / max(float(np.mean(error**2)), 1e-12))
        alike = psnr >= HALF_PSNR if is_half(side) or side == BEST else differences[side] <= TOLERANCE
        if not alike:
            raise SystemExit(f"{side} makes other clips than the engine: {differences[side]:.2g}, {psnr:.0f} dB")
    return differences


def ratios(medians: dict[str, float]) -> dict[str, Any]:
    """Compares medians: `ratio`, `ratio_float32`, and `ratio_vs`, each rival's over the engine's best."""
    rivals = {side: seconds for side, seconds in medians.items() if side not in (BEST, FLOAT32, WHOLE)}
    return {
        "ratio": min(rivals.values()) / medians[BEST],
        "ratio_float32": min(s for side, s in rivals.items() if not is_half(side)) / medians[FLOAT32],
        "ratio_vs": {side: seconds / medians[BEST] for side, seconds in rivals.items()},
    }


def run(
    batches: Sequence[int],
    lengths: Sequence[int],
    rounds: int,
    ngf: int = 64,
    against: Sequence[str] = RIVALS[:3],
    processor_time: bool = False,
    **sizes: Any,
) -> dict[str, Any]:
    """Compares the clips of all sides, times the sides in turn, and returns the report."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        call = f"prepare(pathlib.Path({name!r}), {ngf}, **{sizes!r})[1]"
        code = f"import pathlib; from benchmarks.inference_sides import prepare; print({call})"
        made = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        flops_of_a_frame = float(made.stdout.split()[-1])
        libraries: list[Library] = []
        try:
            for library in ("engine", "engine_float32", *against):
                libraries.append(Library(library, folder))
            return _measure(libraries, folder, batches, lengths, rounds, flops_of_a_frame, processor_time)
        finally:
            for library in libraries:
                library.close()


def _measure(
    libraries: list[Library],
    folder: pathlib.Path,
    batches: Sequence[int],
    lengths: Sequence[int],
    rounds: int,
    flops_of_a_frame: float,
    processor_time: bool,
) -> dict[str, Any]:
    sides = {side: library for library in libraries for side in library.sides}
    for side, library in sides.items():
        library.ask(side=side, batch=2, frames=lengths[0], save=str(folder / f"{side}.npy"))
    differences = check_alike({side: np.load(folder / f"{side}.npy") for side in sides})
    peaks = {
        precision: max(library.ask(rate=precision, processor=processor_time)["rate"] for library in libraries)
        for precision in ("float32", "bfloat16")
    }
    cases = []
    for batch in batches:
        for length in lengths:
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for turn in range(rounds + 1):
                for side, library in sides.items():
                    time.sleep(REST)
                    took = library.ask(side=side, batch=batch, frames=length, processor=processor_time)["seconds"]
                    if turn:  # The first run of a shape warms up.
                        seconds[side].append(took)
            results = {side: timing.summary(times) for side, times in seconds.items()}
            medians = {side: result["median_s"] for side, result in results.items()}
            operations = flops_of_a_frame * batch * length
            shares = {
                side: operations / medians[side] / peak
                for side, peak in ((BEST, max(peaks.values())), (FLOAT32, peaks["float32"]))
            }
            case = {"batch": batch, "frames": length, "results": results, **ratios(medians)}
            cases.append({**case, "flops": operations, "share_of_peak": shares})
    return {
        "cases": cases,
        "ratio": min(case["ratio"] for case in cases),
        "ratio_float32": min(case["ratio_float32"] for case in cases),
        "matrix_rate": peaks,
        "differences": differences,
    }


def main() -> None:
    """Prints a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="clips per call")
    parser.add_argument("--frames", type=int, nargs="+", default=[16], help="frames per clip")
    parser.add_argument("--ngf", type=int, default=64, help="filters of the generator's last hidden layer")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each")
    parser.add_argument("--against", nargs="+", choices=RIVALS, help="default: those installed, without compiled")
    parser.add_argument("--processor_time", action="store_true", help="the time of a run is its processor time")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    installed = [name for name in RIVALS[:3] if importlib.util.find_spec(name)]
    report = run(flags.batches, flags.frames, flags.rounds, flags.ngf, flags.against or installed, flags.processor_time)
    if flags.json:
        print(json.dumps(report))
        return
    for case in report["cases"]:
        share = case["share_of_peak"][BEST]
        print(f"{case['batch']} clips of {case['frames']} frames; {share:.0%} of the matrix rate")
        for name, result in case["results"].items():
            against = f"{case['ratio_vs'][name]:6.2f} x the engine's time" if name in case["ratio_vs"] else ""
            print(f"  {name:32} {1e3 * result['median_s']:8.1f} ms{against}")
        print(f"  fastest rival over the engine: {case['ratio']:.2f}; in float32 {case['ratio_float32']:.2f}")
    print(
        "rates of matrix products:", ", ".join(f"{n} {r / 1e9:.0f} GFLOP/s" for n, r in report["matrix_rate"].items())
    )


if __name__ == "__main__":
    main()
