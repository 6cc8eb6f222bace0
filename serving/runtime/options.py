"""What an engine is asked for, and what it may be asked for."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np
from numpy.typing import NDArray

from serving.runtime.errors import ServingError

Floats = NDArray[np.float32]

# The precisions that each provider knows, and how its results may differ from golden.npz, in units of the [-1, 1]
# range: the largest difference, and the root of the mean square. float32 sums come in another order, or as TF32.
PRECISIONS = {
    "cpu": ("float32", "float16"),
    "openvino": ("float32", "bfloat16"),
    "cuda": ("float32", "float16"),
    "tensorrt": ("float32", "float16"),
}
ON_GPU = ("cuda", "tensorrt")
PRECISION_NAMES = sorted({name for names in PRECISIONS.values() for name in names})
TOLERANCES = {
    ("cpu", "float32"): (1e-3, 1e-3),
    ("openvino", "float32"): (1e-3, 1e-3),
    ("openvino", "bfloat16"): (5e-1, 1e-2),  # 46 dB of PSNR. Single pixels on an edge differ by much more.
    ("cuda", "float32"): (1e-2, 1e-2),
    ("tensorrt", "float32"): (1e-2, 1e-2),
}
HALF_TOLERANCE = (3e-2, 3e-2)


class EngineError(ServingError):
    """The engine cannot start as asked: its provider is missing, or its results are not the golden ones."""

    error_type = "engine"


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """How to run a bundle.

    Args:
        provider: `cpu`, `openvino`, `cuda` or `tensorrt`; `auto`: CUDA where it works, else whichever of the two on the
            CPU a short measurement at the start finds faster.
        precision: `float32`, `float16` or `bfloat16`; `auto`: half floats on a GPU if the bundle has them, bfloat16 in
            OpenVINO if the processor computes in it, float32 elsewhere.
        threads: Threads of one worker's operators on the CPU; 0 means the CPUs of this process over the workers.
        workers: Sets of sessions; each runs one batch at a time.
        max_batch_frames: Frames of the largest bucket.
        cuda_graph: Capture the frame graph as a CUDA graph, kept only if it passes a self-test.
        spinning: With ONNX Runtime on the CPU, threads wait awake between two operators of a run. A run takes a tenth
            to a quarter less time, but everything else on these processors waits longer, such as a server's event loop.
        device_id: Which GPU.
    """

    provider: str = "auto"
    precision: str = "auto"
    threads: int = 0
    workers: int = 1
    max_batch_frames: int = 32
    cuda_graph: bool = False
    spinning: bool = True
    device_id: int = 0

    def __post_init__(self) -> None:
        """Raises EngineError for a provider or a precision that nobody knows, or for two that do not go together."""
        if self.provider not in ("auto", *PRECISIONS):
            raise EngineError(f"`provider` must be auto, {', '.join(PRECISIONS)}. Received: provider={self.provider}")
        if self.precision not in ("auto", *PRECISION_NAMES):
            raise EngineError(
                f"`precision` must be auto, {', '.join(PRECISION_NAMES)}. Received: precision={self.precision}"
            )
        if self.provider != "auto" and self.precision not in ("auto", *PRECISIONS[self.provider]):
            raise EngineError(
                f"--provider={self.provider} computes in {' or '.join(PRECISIONS[self.provider])}. "
                f"Received: --precision={self.precision}"
            )


def available_cpus() -> int:
    """CPUs that this process may use, by its affinity and the quota of its control group."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cpus = min(cpus, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cpus
