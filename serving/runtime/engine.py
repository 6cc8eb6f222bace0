"""The engine: latents in, frames out, on the best ONNX Runtime provider that works. It knows no HTTP and no queue.

A clip is made in two steps. `motion.onnx` (a GRU of about ten units, microseconds) always runs on the CPU and turns a
clip's noise into one motion code per frame. `frames.onnx` turns rows (content, motion, perhaps category) into
pictures, one row per frame, and does not care which clip a row belongs to. So frames of different clips, of any
lengths, share a batch without padding one clip to another. The heavy graph sees a few fixed sizes only (buckets), as
cuDNN's plans and CUDA graphs need. A stream continues from a GRU state.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import functools
import io
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mocogan_tf.latents import sample_latents
from serving.runtime.bundle import Bundle
from serving.runtime.errors import BundleError, ServingError

Floats = NDArray[np.float32]
T = TypeVar("T")

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# Largest difference to golden.npz, in units of the [-1, 1] range: float32 sums in another order, TF32 or half floats.
TOLERANCE = {("cpu", "float32"): 1e-3, ("cuda", "float32"): 1e-2, ("tensorrt", "float32"): 1e-2}
HALF_TOLERANCE = 3e-2
log = logging.getLogger("serving.runtime.engine")


class EngineError(ServingError):
    """The engine cannot start as asked: its provider is missing, or its results are not the golden ones."""

    error_type = "engine"


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """How to run a bundle.

    Args:
        provider: `auto` (CUDA where it works, else the CPU), `cpu`, `cuda` or `tensorrt`.
        precision: `auto` (half floats on a GPU if the bundle has them), `float32` or `float16`.
        threads: Threads of one worker's operators on the CPU; 0 means the CPUs of this process over the workers.
        workers: Sets of sessions; each runs one batch at a time.
        max_batch_frames: Frames of the largest bucket.
        cuda_graph: Capture the frame graph as a CUDA graph, kept only if it passes a self-test.
        spinning: On the CPU, threads wait awake between two operators of a run. A run takes a tenth to a quarter less
            time, but everything else on these processors waits longer, such as a server's event loop.
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


def frame_buckets(max_batch_frames: int) -> tuple[int, ...]:
    """Powers of two below the largest bucket, and that bucket."""
    powers = [1 << i for i in range(max_batch_frames.bit_length()) if 1 << i < max_batch_frames]
    return (*powers, max_batch_frames)


def plan_buckets(num_frames: int, buckets: Sequence[int], *, pad: bool) -> list[int]:
    """Returns the buckets to run for a number of frames, in order.

    On a GPU a launch costs more than some empty rows, so the last frames are padded to the next bucket (`pad`). On a
    CPU every row costs the same, so frames are cut into buckets that fit, and only the smallest one is ever padded.
    """
    plan = []
    while num_frames >= buckets[-1]:
        plan.append(buckets[-1])
        num_frames -= buckets[-1]
    while num_frames > 0:
        fitting = [size for size in buckets if size <= num_frames]
        size = next(size for size in buckets if size >= num_frames) if pad or not fitting else fitting[-1]
        plan.append(size)
        num_frames -= size
    return plan


def frame_session(
    path: pathlib.Path, provider: str, options: EngineOptions, threads: int, cache: pathlib.Path | None = None
) -> ort.InferenceSession:
    """Loads `frames.onnx`.

    Args:
        path: The model.
        provider: `cpu`, `cuda` or `tensorrt`.
        options: The engine's.
        threads: Threads of an operator on the CPU.
        cache: Where TensorRT keeps what it built; None: nowhere.

    Raises:
        EngineError: ONNX Runtime took another provider.
    """
    session = ort.InferenceSession(
        str(path),
        _session_options(threads if provider == "cpu" else 1, options.spinning),
        providers=_providers(provider, options, cache),
    )
    active = session.get_providers()[0]
    if active != PROVIDERS[provider]:
        raise EngineError(f"ONNX Runtime runs on {active} though {PROVIDERS[provider]} was asked for.")
    return session


class FrameSession:
    """A frame model at one fixed number of rows. Not thread-safe: one worker owns it.

    Args:
        session: What `frame_session` returns. On the CPU the sizes of a worker share one, and with it the weights; on a
            GPU each has its own, with the plans and the CUDA graph of its size.
        size: Number of rows.
        frame_shape: Height, width and channels.
        device_id: The GPU on which inputs and output stay; None: on the CPU, they are new in every call.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        size: int,
        frame_shape: tuple[int, int, int],
        device_id: int | None = None,
    ) -> None:
        self.session = session
        self.size = size
        self.frame_shape = frame_shape
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.rows = {value.name: value.shape[-1] for value in self.session.get_inputs()}
        self.binding: Any = None
        if device_id is not None:
            self.bind("cuda", device_id)

    def _shape(self, name: str) -> tuple[int, ...]:
        return (self.size, 1, self.rows[name]) if name == "motion" else (self.size, self.rows[name])

    def bind(self, device: str, device_id: int) -> None:
        """Allocates inputs and output on the device once, at fixed addresses, instead of in every call."""
        self.binding = self.session.io_binding()
        self.device_inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros(self._shape(name), np.float32), device, device_id)
            for name in self.inputs
        }
        for name, value in self.device_inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        shape = [self.size, 1, *self.frame_shape]
        self.device_output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, device_id)
        self.binding.bind_ortvalue_output("video", self.device_output)

    def run(self, rows: dict[str, Floats]) -> Floats:
        """Frames `[n, H, W, C]` for rows of width `[n, D]`, n at most the session's size."""
        n = len(rows["motion"])
        feeds = {}
        for name in self.inputs:
            padded = rows[name]
            if n < self.size:
                padded = np.zeros((self.size, self.rows[name]), np.float32)
                padded[:n] = rows[name]
            feeds[name] = np.ascontiguousarray(padded).reshape(self._shape(name))
        if self.binding is None:
            video = self.session.run(["video"], feeds)[0]
        else:
            for name, value in feeds.items():
                self.device_inputs[name].update_inplace(value)
            self.session.run_with_iobinding(self.binding)
            video = self.device_output.numpy()
            if self.device_output.device_name() == "cpu":  # There it is a view; elsewhere it is a copy already.
                video = video.copy()
        frames: Floats = video[:n, 0]
        return frames


def _session_options(threads: int, spinning: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.force_spinning_stop", "1")  # Never between two runs.
    return options


def _providers(provider: str, options: EngineOptions, cache: pathlib.Path | None = None) -> list[Any]:
    cuda = {
        "device_id": str(options.device_id),
        # In cuDNN 9 this is heuristic mode A. DEFAULT is its fallback mode, and EXHAUSTIVE times every plan.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "do_copy_in_default_stream": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if options.cuda_graph else "0",
    }
    tensorrt = {
        "device_id": str(options.device_id),
        "trt_fp16_enable": "1" if options.precision == "float16" else "0",
        "trt_cuda_graph_enable": "1" if options.cuda_graph else "0",
    }
    if cache is not None:
        tensorrt |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
    chains: dict[str, list[Any]] = {
        "cpu": [PROVIDERS["cpu"]],
        "cuda": [(PROVIDERS["cuda"], cuda), PROVIDERS["cpu"]],
        "tensorrt": [(PROVIDERS["tensorrt"], tensorrt), (PROVIDERS["cuda"], cuda), PROVIDERS["cpu"]],
    }
    return chains[provider]


def cache_folder(bundle: Bundle, precision: str, size: int) -> pathlib.Path | None:
    """Makes the folder in which TensorRT keeps what it built for a bundle; None if there can be none.

    It is in the user's cache and not in the bundle, whose files are all listed and hashed. Nobody else may write there,
    since TensorRT runs what it reads.
    """
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mocogan-serving"
    folder = base / "tensorrt" / bundle.digest / f"{precision}-{size}"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        base.chmod(0o700)
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except OSError as error:
        log.warning("TensorRT builds its engines anew at each start: %s", _one_line(error))
        return None
    return folder


def _preload_dlls() -> None:
    """Loads CUDA and cuDNN from pip packages, which are not on the loader's path by themselves.

    ONNX Runtime prints what it does not find.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            ort.preload_dlls(directory="")
        for line in filter(None, map(str.strip, printed.getvalue().splitlines())):
            log.warning("%s", line)


def _has_driver() -> bool:
    """Whether NVIDIA's driver is on this machine."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


class Engine:
    """A bundle, loaded and warm.

    `provider` and `precision` are the active ones, not those asked for. Workers render at the same time, each one
    batch. `motion` may be called from any thread.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions | None = None) -> None:
        """Loads, warms and checks.

        Raises:
            EngineError: The provider does not work, or its results differ from the golden ones.
            BundleError: A model file does not fit the manifest.
        """
        self.bundle = bundle
        self.options = options or EngineOptions()
        if self.options.provider != "auto" and self.options.provider not in PROVIDERS:
            raise EngineError(
                f"`provider` must be auto, {', '.join(PROVIDERS)}. Received: provider={self.options.provider}"
            )
        self.cpus = available_cpus()
        self.threads = self.options.threads or max(1, self.cpus // self.options.workers)
        self.buckets = frame_buckets(self.options.max_batch_frames)
        self._motion = self._motion_session()
        self.provider, self.precision, self.cuda_graph = "cpu", "float32", False
        self._workers: list[dict[int, FrameSession]] = []
        self._locks = [threading.Lock() for _ in range(self.options.workers)]
        # On a GPU each worker's sessions are made and run on one thread: ONNX Runtime keeps CUDA graphs by thread.
        self._gpu_threads: list[concurrent.futures.ThreadPoolExecutor] = []
        try:
            self._start()
            self.golden_difference = self._check_golden()
        except BaseException:
            self.close()
            raise

    def _motion_session(self) -> ort.InferenceSession:
        path = self.bundle.files["motion"]
        try:
            session = ort.InferenceSession(str(path), _session_options(1, spinning=False), providers=[PROVIDERS["cpu"]])
        except Exception as error:
            raise BundleError(f"{path} cannot be loaded: {_one_line(error)}") from error
        self._motion_inputs = [value.name for value in session.get_inputs()]
        unknown = set(self._motion_inputs) - {"motion_init", "motion_noise", "category"}
        if unknown:
            raise BundleError(f"{path} has inputs that this server does not know: {', '.join(sorted(unknown))}")
        return session

    def _candidates(self) -> list[str]:
        """Providers to try, best first."""
        present = ort.get_available_providers()
        if self.options.provider == "auto":
            # The GPU wheel lists CUDA on machines without a GPU too, and logs much when it is tried there.
            return [name for name in ("cuda", "cpu") if PROVIDERS[name] in present and (name == "cpu" or _has_driver())]
        if PROVIDERS[self.options.provider] not in present:
            raise EngineError(
                f"This ONNX Runtime has no {PROVIDERS[self.options.provider]}, only {', '.join(present)}. "
                "Install onnxruntime-gpu, or start with --provider=cpu."
            )
        return [self.options.provider]

    def _start(self) -> None:
        without = dataclasses.replace(self.options, cuda_graph=False)
        candidates = [
            (name, options)
            for name in self._candidates()
            for options in ([self.options, without] if self.options.cuda_graph and name != "cpu" else [without])
        ]
        for name, options in candidates:
            what = PROVIDERS[name] + (" with CUDA graphs" if options.cuda_graph else "")
            if name != "cpu":
                _preload_dlls()
            try:
                self._load(name, options)
                return
            except BundleError:
                raise
            except Exception as error:
                # ONNX Runtime lists CUDA wherever its GPU wheel is installed, with or without a GPU.
                if (name, options) == candidates[-1]:
                    if isinstance(error, EngineError):
                        raise
                    raise EngineError(f"{what} does not work: {_one_line(error)}") from error
                log.warning("%s does not work, trying the next: %s", what, _one_line(error))

    def _load(self, provider: str, options: EngineOptions) -> None:
        """Sessions for every worker and bucket, each run once."""
        precision = options.precision
        if precision == "auto":
            precision = "float16" if provider != "cpu" and "frames_fp16" in self.bundle.files else "float32"
        role = "frames_fp16" if precision == "float16" else "frames"
        if role not in self.bundle.files:
            raise BundleError(f"{self.bundle.folder} has no half-float frame model. Start with --precision=float32.")
        options = dataclasses.replace(options, precision=precision)
        self._drop_sessions()
        if provider != "cpu":
            self._gpu_threads = [
                concurrent.futures.ThreadPoolExecutor(1, f"gpu-{worker}") for worker in range(options.workers)
            ]
        make = functools.partial(self._sessions, self.bundle.files[role], provider, options)
        self._workers = [self._on_its_thread(worker, make) for worker in range(options.workers)]
        self.provider, self.precision, self.cuda_graph = provider, precision, options.cuda_graph and provider != "cpu"
        rng = np.random.default_rng(0)
        for worker, sessions in enumerate(self._workers):
            for size in sessions:
                rows = self._random_rows(rng, size)
                for _ in range(2):  # The second is the first without cuDNN's search, and the first replay of a graph.
                    self.render(rows, worker)
        if self.cuda_graph and not self._replays_right(rng):
            log.warning("CUDA graphs do not give the same frames here: going on without them")
            self._load(provider, dataclasses.replace(options, cuda_graph=False))

    def _sessions(self, path: pathlib.Path, provider: str, options: EngineOptions) -> dict[int, FrameSession]:
        """A worker's sessions by their number of rows."""
        shape = self.bundle.frame_shape
        if provider == "cpu":
            session = frame_session(path, provider, options, self.threads)
            return {size: FrameSession(session, size, shape) for size in self.buckets}
        sessions = {}
        for size in self.buckets:
            cache = cache_folder(self.bundle, options.precision, size) if provider == "tensorrt" else None
            session = frame_session(path, provider, options, self.threads, cache)
            sessions[size] = FrameSession(session, size, shape, options.device_id)
        return sessions

    def _on_its_thread(self, worker: int, function: Callable[[], T]) -> T:
        """Runs a function where this worker's sessions run."""
        return self._gpu_threads[worker].submit(function).result() if self._gpu_threads else function()

    def _random_rows(self, rng: np.random.Generator, size: int) -> dict[str, Floats]:
        session = self._workers[0][self.buckets[0]]
        return {name: rng.standard_normal((size, session.rows[name]), dtype=np.float32) for name in session.inputs}

    def _replays_right(self, rng: np.random.Generator) -> bool:
        """Whether replays of a captured graph follow their inputs, compared with plain sessions on the CPU."""
        options = EngineOptions(provider="cpu", precision="float32")
        path, shape = self.bundle.files["frames"], self.bundle.frame_shape
        plain = FrameSession(frame_session(path, "cpu", options, self.threads), self.buckets[-1], shape)
        tolerance = HALF_TOLERANCE if self.precision == "float16" else TOLERANCE[(self.provider, "float32")]
        for worker, sessions in enumerate(self._workers):
            for size in sessions:
                for _ in range(2):
                    rows = self._random_rows(rng, size)
                    if not np.allclose(self.render(rows, worker), plain.run(rows), atol=tolerance):
                        return False
        return True

    def _check_golden(self) -> float:
        """Largest difference of a video to `golden.npz`.

        Raises:
            EngineError: The difference is too large, or the golden seed does not draw the golden inputs.
        """
        golden = self.bundle.golden()
        shapes = self.bundle.latents.shapes(*golden["motion_noise"].shape[:2])
        latents = {name: golden[name] for name in shapes}
        drawn = sample_latents(self.bundle.latents, *golden["motion_noise"].shape[:2], seed=int(golden["seed"]))
        for name in shapes:
            if not np.allclose(drawn[name], latents[name], atol=1e-5):
                raise EngineError(
                    f"Seed {int(golden['seed'])} draws another `{name}` than {self.bundle.folder}'s golden"
                )
        video, state = self.generate(latents)
        tolerance = TOLERANCE.get((self.provider, self.precision), HALF_TOLERANCE)
        difference = float(np.max(np.abs(video - golden["video"]), initial=0.0))
        state_difference = float(np.max(np.abs(state - golden["motion_state"]), initial=0.0))
        if not (difference <= tolerance and state_difference <= 1e-3):  # Written so that NaN fails.
            raise EngineError(
                f"{self.bundle.folder} on {PROVIDERS[self.provider]} in {self.precision} differs from its golden.npz "
                f"by {max(difference, state_difference):.3g}, more than {tolerance:.3g}."
            )
        return difference

    def motion(self, latents: dict[str, Floats]) -> tuple[Floats, Floats]:
        """Motion codes `[B, T, dim_motion]` and the GRU's last state `[B, dim_motion]`."""
        feeds = {name: latents[name] for name in self._motion_inputs}
        codes, state = self._motion.run(["motion", "motion_state"], feeds)
        return codes, state

    def rows(self, latents: dict[str, Floats], motion: Floats) -> dict[str, Floats]:
        """One row per frame, clip after clip, for `render`: `[B * T, D]` by input name."""
        num_frames = motion.shape[1]
        rows = {"motion": motion.reshape(-1, motion.shape[2])}
        for name in self._workers[0][self.buckets[0]].inputs:
            if name != "motion":
                rows[name] = np.repeat(latents[name], num_frames, axis=0)
        return rows

    def render(self, rows: dict[str, Floats], worker: int = 0) -> Floats:
        """Frames `[N, H, W, C]` for rows `[N, D]`: split over buckets, padded, run, joined."""
        with self._locks[worker]:
            return self._on_its_thread(worker, lambda: self._run(rows, self._workers[worker]))

    def _run(self, rows: dict[str, Floats], sessions: dict[int, FrameSession]) -> Floats:
        done, parts = 0, []
        for size in plan_buckets(len(rows["motion"]), self.buckets, pad=self.provider != "cpu"):
            piece = {name: values[done : done + size] for name, values in rows.items()}
            parts.append(sessions[size].run(piece))
            done += size
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def generate(self, latents: dict[str, Floats], worker: int = 0) -> tuple[Floats, Floats]:
        """Video `[B, T, H, W, C]` in [-1, 1] and motion state `[B, dim_motion]`, on this thread and without a queue."""
        motion, state = self.motion(latents)
        video = self.render(self.rows(latents, motion), worker)
        return video.reshape(*motion.shape[:2], *self.bundle.frame_shape), state

    def describe(self) -> dict[str, Any]:
        """What runs where, for the log and `/info`."""
        return {
            "provider": PROVIDERS[self.provider],
            "precision": self.precision,
            "cuda_graph": self.cuda_graph,
            "threads": self.threads,
            "workers": self.options.workers,
            "frame_buckets": list(self.buckets),
            "onnxruntime": ort.__version__,
            "golden_difference": self.golden_difference,
        }

    def close(self) -> None:
        """Frees the sessions; nothing may be rendering."""
        self._drop_sessions()

    def _drop_sessions(self) -> None:
        self._workers = []
        for thread in self._gpu_threads:
            thread.shutdown()
        self._gpu_threads = []


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
