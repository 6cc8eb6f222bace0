"""The machine's hardware, as far as files tell. TensorFlow, which knows for sure, takes seconds to start."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil


def has_nvidia_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU with a driver."""
    return (
        any(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))
        or pathlib.Path("/dev/nvidia0").exists()
        or shutil.which("nvidia-smi") is not None
    )


def hides_gpus() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides all GPUs from this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


def cpu_flags() -> set[str]:
    """Returns the processor's feature flags; none where the system does not tell them."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split())
    return set()
