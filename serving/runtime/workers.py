"""The frame model on one provider: sessions for every worker and number of rows, made, warmed, run and closed."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from serving.runtime import onnx_runtime, openvino_runtime
from serving.runtime.bundle import Bundle
from serving.runtime.errors import BundleError
from serving.runtime.options import HALF_TOLERANCE, ON_GPU, TOLERANCES, EngineOptions, Floats
from serving.runtime.rows import frame_buckets, plan_buckets, same_clip

T = TypeVar("T")


class Session(Protocol):
    """A frame model at one number of rows; `widths` are the inputs' by name."""

    widths: dict[str, int]

    def run(self, rows: dict[str, Floats]) -> Floats: ...


def name_of(provider: str) -> str:
    """Returns a provider's name in its own library."""
    return onnx_runtime.PROVIDERS.get(provider, "OpenVINO")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A provider, the precision it computes in, and whether it replays CUDA graphs."""

    provider: str
    precision: str
    cuda_graph: bool = False

    @property
    def provider_name(self) -> str:
        return name_of(self.provider)

    def __str__(self) -> str:
        return f"{self.provider_name} in {self.precision}"

    @property
    def on_gpu(self) -> bool:
        return self.provider in ON_GPU

    @property
    def tolerance(self) -> tuple[float, float]:
        """Largest difference and root mean square to golden.npz."""
        return TOLERANCES.get((self.provider, self.precision), HALF_TOLERANCE)


class Workers:
    """Workers render at the same time, each one batch."""

    def __init__(self, bundle: Bundle, choice: Choice, options: EngineOptions, threads: int) -> None:
        """Loads and warms.

        Args:
            bundle: The bundle.
            choice: Where and how to compute.
            options: The engine's.
            threads: CPU threads of one worker.

        Raises:
            BundleError: The bundle has no model of this precision.
            EngineError: ONNX Runtime took another provider.
        """
        self.bundle, self.choice, self.threads = bundle, choice, threads
        self.options = dataclasses.replace(options, cuda_graph=choice.cuda_graph, precision=choice.precision)
        self.buckets = frame_buckets(options.max_batch_frames)
        self.sessions: Sequence[Mapping[int, Session]] = []
        self._locks = [threading.Lock() for _ in range(options.workers)]
        # On a GPU each worker's sessions are made and run on one thread: ONNX Runtime keeps CUDA graphs by thread.
        self._gpu_threads: list[concurrent.futures.ThreadPoolExecutor] = []
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        """Makes sessions for every worker and bucket, and runs each."""
        role = "frames_fp16" if self.choice.precision == "float16" else "frames"
        if role not in self.bundle.files:
            raise BundleError(f"{self.bundle.folder} has no half-float frame model. Start with --precision=float32.")
        path, number = self.bundle.files[role], self.options.workers
        if self.choice.provider == "openvino":
            self.sessions = openvino_runtime.frame_requests(
                path, self.choice.precision, self.buckets, threads=self.threads, workers=number
            )
        else:
            if self.choice.on_gpu:
                self._gpu_threads = [concurrent.futures.ThreadPoolExecutor(1, f"gpu-{i}") for i in range(number)]
            self.sessions = [self._on_its_thread(i, lambda: self._onnx_sessions(path)) for i in range(number)]
        rng = np.random.default_rng(0)
        for worker, sessions in enumerate(self.sessions):
            for size in sessions:
                rows = self.random_rows(rng, size)
                for _ in range(2):  # The second is the first without cuDNN's search, and the first replay of a graph.
                    self.render(rows, worker)

    def _onnx_sessions(self, path: pathlib.Path) -> dict[int, Session]:
        """A worker's sessions by their number of rows."""
        shape, provider = self.bundle.frame_shape, self.choice.provider
        if provider == "cpu":
            session = onnx_runtime.frame_session(path, provider, self.options, self.threads)
            return {size: onnx_runtime.FrameSession(session, size, shape, one_clip=True) for size in self.buckets}
        sessions: dict[int, Session] = {}
        for size in self.buckets:
            cache = (
                onnx_runtime.cache_folder(self.bundle, self.choice.precision, size) if provider == "tensorrt" else None
            )
            session = onnx_runtime.frame_session(path, provider, self.options, self.threads, cache)
            sessions[size] = onnx_runtime.FrameSession(session, size, shape, self.options.device_id)
        return sessions

    def _on_its_thread(self, worker: int, function: Callable[[], T]) -> T:
        """Runs a function where this worker's sessions run."""
        return self._gpu_threads[worker].submit(function).result() if self._gpu_threads else function()

    @property
    def widths(self) -> dict[str, int]:
        """Widths of the frame model's inputs by name."""
        return self.sessions[0][self.buckets[0]].widths

    def random_rows(self, rng: np.random.Generator, size: int) -> dict[str, Floats]:
        """Rows `[size, D]` of normal numbers by input name; on a CPU, of one clip."""
        rows = {}
        for name, width in self.widths.items():
            values = rng.standard_normal((size, width), dtype=np.float32)
            rows[name] = values if self.choice.on_gpu or name == "motion" else np.repeat(values[:1], size, axis=0)
        return rows

    def render(self, rows: dict[str, Floats], worker: int = 0) -> Floats:
        """Frames `[N, H, W, C]` for rows `[N, D]`: split over buckets, padded, run, joined."""
        with self._locks[worker]:
            return self._on_its_thread(worker, lambda: self._run(rows, self.sessions[worker]))

    def _run(self, rows: dict[str, Floats], sessions: Mapping[int, Session]) -> Floats:
        parts = []
        # On a GPU few launches matter; on a CPU every row costs the same, and less in the company of its clip.
        for clip in [slice(0, len(rows["motion"]))] if self.choice.on_gpu else same_clip(rows):
            done = clip.start
            for size in plan_buckets(clip.stop - done, self.buckets, pad=self.choice.on_gpu):
                end = min(done + size, clip.stop)
                parts.append(sessions[size].run({name: values[done:end] for name, values in rows.items()}))
                done = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def replays_right(self) -> bool:
        """Whether replays of a captured graph follow their inputs, compared with plain sessions on the CPU."""
        options = EngineOptions(provider="cpu", precision="float32")
        session = onnx_runtime.frame_session(self.bundle.files["frames"], "cpu", options, self.threads)
        plain = onnx_runtime.FrameSession(session, self.buckets[-1], self.bundle.frame_shape)
        rng = np.random.default_rng(1)
        for worker, sessions in enumerate(self.sessions):
            for size in sessions:
                for _ in range(2):
                    rows = self.random_rows(rng, size)
                    if not np.allclose(self.render(rows, worker), plain.run(rows), atol=self.choice.tolerance[0]):
                        return False
        return True

    def close(self) -> None:
        """Frees the sessions; nothing may be rendering."""
        self.sessions = []
        for thread in self._gpu_threads:
            thread.shutdown()
        self._gpu_threads = []
