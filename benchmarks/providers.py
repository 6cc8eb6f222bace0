"""A bundle on every provider of the CPU: python -m benchmarks.providers [BUNDLE ...]

Needs openvino. Prints the median processor time of a clip of the training length, sides in turns, and the PSNR to ONNX
Runtime. `rewritten`: with transposed convolutions as convolutions, as the server runs it; `frame by frame`: each frame
as a clip of its own. Pin it to one processor for times that can be compared: taskset -c 1 ...
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable

import numpy as np

from mocogan_tf.latents import sample_latents
from serving.runtime import onnx_runtime, openvino_runtime
from serving.runtime.bundle import Bundle, read_bundle
from serving.runtime.engine import Engine
from serving.runtime.options import EngineOptions, Floats, available_cpus

EVERY_LAYER, NO_LAYER = 1, 2**31
ROUNDS = 12

Rows = dict[str, Floats]


def make_sides(bundle: Bundle, size: int) -> dict[str, Callable[[Rows], Floats]]:
    """Returns functions from the rows of a clip of `size` frames to its frames, by name."""
    threads, path, shape = available_cpus(), bundle.files["frames"], bundle.frame_shape
    session = onnx_runtime.frame_session(path, "cpu", EngineOptions("cpu", spinning=False), threads)
    sides: dict[str, Callable[[Rows], Floats]] = {
        "ONNX Runtime, float32": onnx_runtime.FrameSession(session, size, shape, one_clip=True).run,
        "ONNX Runtime, float32, frame by frame": onnx_runtime.FrameSession(session, size, shape).run,
    }
    settled = dict(openvino_runtime.LEAST_FILTERS)
    for precision in ("float32", *(["bfloat16"] if openvino_runtime.has_bfloat16() else [])):
        for how, least in (("", NO_LAYER), (", rewritten", settled[precision]), (", all rewritten", EVERY_LAYER)):
            if how == ", all rewritten" and least == settled[precision]:
                continue
            openvino_runtime.LEAST_FILTERS[precision] = least
            (requests,) = openvino_runtime.frame_requests(path, precision, [size], threads=threads, workers=1)
            sides[f"OpenVINO, {precision}{how}"] = requests[size].run
    openvino_runtime.LEAST_FILTERS.update(settled)
    return sides


def measure(folder: pathlib.Path) -> dict[str, tuple[float, float]]:
    """Returns milliseconds and PSNR by side."""
    bundle = read_bundle(folder)
    engine = Engine(bundle, EngineOptions("cpu"))
    latents = sample_latents(bundle.latents, 1, bundle.video_length, seed=0)
    rows = engine.rows(latents, engine.motion(latents)[0])
    engine.close()
    sides = make_sides(bundle, bundle.video_length)
    frames = {name: np.array(side(rows)) for name, side in sides.items()}
    expected = next(iter(frames.values()))
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            started = time.process_time()
            side(rows)
            taken[name].append(1e3 * (time.process_time() - started))
    errors = {name: max(float(np.mean((value - expected) ** 2)), 1e-20) for name, value in frames.items()}
    return {name: (statistics.median(taken[name]), float(10 * np.log10(4 / errors[name]))) for name in sides}


def main() -> None:
    """Prints a line per side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    taichi = pathlib.Path(__file__).parent.parent / "pretrained" / "taichi"
    parser.add_argument("bundles", nargs="*", type=pathlib.Path, default=[taichi])
    for folder in parser.parse_args().bundles:
        print(folder)
        for name, (milliseconds, psnr) in measure(folder).items():
            print(f"  {name:40} {milliseconds:7.2f} ms {psnr:6.1f} dB")


if __name__ == "__main__":
    main()
