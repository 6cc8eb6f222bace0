"""Which providers there are on this machine, in which precision each computes, and which one is the fastest."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from serving.runtime import onnx_runtime, openvino_runtime
from serving.runtime.bundle import Bundle
from serving.runtime.options import ON_GPU, PRECISIONS, EngineError, EngineOptions
from serving.runtime.workers import Choice, Workers

MEASURE_SECONDS = 0.5
MEASURE_RUNS = 10


def why_missing(provider: str) -> str:
    """Returns why a provider cannot be tried here and what to do about it; "" if it can."""
    if provider == "openvino":
        return "" if openvino_runtime.installed() else "OpenVINO is not installed. Install it: pip install openvino"
    present = ort.get_available_providers()
    name = onnx_runtime.PROVIDERS[provider]
    if name in present:
        return ""
    return f"This ONNX Runtime has no {name}, only {', '.join(present)}. Install onnxruntime-gpu"


def to_try(options: EngineOptions) -> list[tuple[str, bool]]:
    """Returns what to try, in this order, as (provider, whether with CUDA graphs). A GPU's come first.

    Raises:
        EngineError: The provider asked for is not installed, or no installed one computes in the precision.
    """
    if options.provider == "auto":
        # The GPU wheel lists CUDA on machines without a GPU too, and logs much when it is tried there.
        here = [name for name in ("cuda", "cpu", "openvino") if name != "cuda" or onnx_runtime.has_driver()]
        able = [name for name in here if options.precision in ("auto", *PRECISIONS[name])]
        names = [name for name in able if not why_missing(name)]
        if not names:
            raise EngineError(
                f"No provider that is installed computes in {options.precision}. {why_missing(able[0])}, or start with "
                "--precision=float32."
            )
    else:
        names = [options.provider]
        if reason := why_missing(options.provider):
            raise EngineError(f"{reason}, or start with --provider=cpu.")
    return [
        (name, graph)
        for name in names
        for graph in ((True, False) if options.cuda_graph and name in ON_GPU else (False,))
    ]


def choice_of(provider: str, cuda_graph: bool, options: EngineOptions, bundle: Bundle) -> Choice:
    """Settles the precision of a provider.

    Raises:
        EngineError: bfloat16 was asked for and the processor does not compute in it.
    """
    precision = options.precision
    if provider == "openvino" and precision != "float32":
        if openvino_runtime.has_bfloat16():
            precision = "bfloat16"
        elif precision == "bfloat16":
            raise EngineError(
                "This processor does not compute in bfloat16: it has neither AVX512-BF16 nor AMX. Start with "
                "--precision=float32."
            )
    if precision == "auto":
        precision = "float16" if provider in ON_GPU and "frames_fp16" in bundle.files else "float32"
    return Choice(provider, precision, cuda_graph)


def fastest(candidates: Sequence[Workers], bundle: Bundle) -> tuple[int, str]:
    """Times one clip of the training length on each, in turns, for about half a second in all.

    Returns:
        Index of the one with the shortest run, and all shortest runs in words.
    """
    rng, best = np.random.default_rng(0), [float("inf")] * len(candidates)
    clips = [candidate.random_rows(rng, bundle.video_length) for candidate in candidates]
    end = time.monotonic() + MEASURE_SECONDS
    for turn in range(MEASURE_RUNS):
        for i, (candidate, rows) in enumerate(zip(candidates, clips, strict=True)):
            begin = time.perf_counter()
            candidate.render(rows)
            best[i] = min(best[i], time.perf_counter() - begin)
        if turn and time.monotonic() > end:
            break
    times = ", ".join(f"{c.choice} {s * 1e3:.3g} ms" for c, s in zip(candidates, best, strict=True))
    return best.index(min(best)), f"the fastest for a clip of {bundle.video_length} frames: {times}"
