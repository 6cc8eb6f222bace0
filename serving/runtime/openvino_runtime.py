"""The frame model on OpenVINO's CPU plugin, an optional package: the same function, float32 or bfloat16.

OpenVINO computes a transposed convolution that doubles a map about half as fast as a convolution of as many operations,
so each becomes one while the model is loaded; the file stays as every runtime reads it.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.runtime.options import Floats
from serving.runtime.rows import padded_feeds

# Filters from which a rewritten layer is measured to be faster: in float32 a last layer of three is not.
LEAST_FILTERS = {"bfloat16": 1, "float32": 8}


def installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def version() -> str:
    """The package's version."""
    import openvino

    return str(openvino.__version__)


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16, by AVX512-BF16 or AMX."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class FrameRequest:
    """A frame model compiled for so many frames of one clip, with one worker's memory. Not thread-safe."""

    def __init__(self, compiled: Any, size: int) -> None:
        self.size = size
        self.widths = {port.get_any_name(): port.get_partial_shape()[-1].get_length() for port in compiled.inputs}
        self._request = compiled.create_infer_request()

    def run(self, rows: dict[str, Floats]) -> Floats:
        """Frames `[n, H, W, C]` for rows of width `[n, D]` of one clip, n at most the request's size."""
        feeds = padded_feeds(rows, self.widths, self.size, one_clip=True)
        frames: Floats = self._request.infer(feeds, share_inputs=True)["video"][0, : len(rows["motion"])]
        return frames


def frame_requests(
    path: pathlib.Path, precision: str, sizes: Sequence[int], *, threads: int, workers: int
) -> list[dict[int, FrameRequest]]:
    """Compiles `frames.onnx` for every size, and returns each worker's requests by their number of rows.

    Args:
        path: The model.
        precision: `float32` or `bfloat16`.
        sizes: Numbers of rows.
        threads: Threads of one worker.
        workers: Requests of one size that run at the same time; they share the weights.
    """
    core = _core()
    model = core.read_model(path)
    rewrite_doublings(model, LEAST_FILTERS[precision])
    options = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads * workers,
        "NUM_STREAMS": workers,
        "ENABLE_CPU_PINNING": False,
    }
    requests: list[dict[int, FrameRequest]] = [{} for _ in range(workers)]
    for size in sizes:
        shapes = {port.get_any_name(): port.get_partial_shape() for port in model.inputs}
        for name, shape in shapes.items():
            shape[0] = 1
            if name == "motion":
                shape[1] = size
        model.reshape(shapes)
        compiled = core.compile_model(model, "CPU", options)
        for own in requests:
            own[size] = FrameRequest(compiled, size)
    return requests


def rewrite_doublings(model: Any, least_filters: int = 1) -> int:
    """Replaces transposed convolutions of stride 2 that double a map by convolutions; returns how many.

    Args:
        model: OpenVINO's model, changed in place.
        least_filters: A layer with fewer filters stays as it is.

    Output row 2i + a of a kernel with 2t rows, padded by t - 1, is a sum over t rows of the input: every second row of
    the kernel, in reversed order. So four kernels of t by t make the four phases (a, b) of rows and columns, and
    `DepthToSpace` interleaves them. For odd t all phases read the same rows, and one convolution makes them all. For
    even t, phase 1 begins a row further than phase 0, so each has a convolution with padding of its own. (One with a
    row more, from which the phases are cut, took a sixth longer.)
    """
    from openvino import opset13 as ops

    count = 0
    for node in model.get_ordered_ops():
        kernel = _doubling_kernel(node)
        if kernel is None or kernel.shape[1] < least_filters:
            continue
        value, taps = node.input_value(0), kernel.shape[2] // 2
        pad, is_even = taps // 2, 1 - taps % 2
        phases = [(a, b) for a in (0, 1) for b in (0, 1)]
        parts = [
            kernel[:, :, (a + is_even) % 2 :: 2, (b + is_even) % 2 :: 2][:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
            for a, b in phases
        ]

        def convolved(weights: Any, before: list[int], after: list[int], value: Any = value) -> Any:
            constant = ops.constant(np.ascontiguousarray(weights))
            return ops.convolution(value, constant, [1, 1], before, after, [1, 1])

        if is_even:
            joined = ops.concat(
                [
                    convolved(part, [pad - a, pad - b], [pad - 1 + a, pad - 1 + b])
                    for part, (a, b) in zip(parts, phases, strict=True)
                ],
                1,
            )
        else:
            joined = convolved(np.concatenate(parts), [pad, pad], [pad, pad])
        doubled = ops.depth_to_space(joined, "blocks_first", 2)
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(doubled.output(0))
        count += 1
    return count


def _doubling_kernel(node: Any) -> NDArray[np.float32] | None:
    """Returns the kernel `[in, out, 2t, 2t]` of a transposed convolution that doubles a map; None for another node."""
    if node.get_type_name() != "ConvolutionBackpropData" or node.get_input_size() != 2:
        return None
    constant, attributes = node.input_value(1).get_node(), node.get_attributes()
    if constant.get_type_name() != "Constant":
        return None
    kernel: NDArray[np.float32] = constant.get_data()
    rows, columns = kernel.shape[2:]
    padding = [rows // 2 - 1] * 2
    plain = [attributes["strides"], attributes["dilations"], attributes["output_padding"]] == [[2, 2], [1, 1], [0, 0]]
    padded = [attributes["pads_begin"], attributes["pads_end"]] == [padding, padding]
    return kernel if plain and padded and rows == columns and rows % 2 == 0 else None
