"""The models on ONNX Runtime: its options for the CPU, CUDA and TensorRT, and inputs and outputs that stay on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import pathlib
import sys
from typing import Any

import numpy as np
import onnxruntime as ort

from serving.runtime.bundle import Bundle
from serving.runtime.errors import BundleError, one_line
from serving.runtime.options import EngineError, EngineOptions, Floats
from serving.runtime.rows import padded_feeds

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
log = logging.getLogger("serving.runtime.engine")


def motion_session(path: pathlib.Path) -> ort.InferenceSession:
    """Loads `motion.onnx`, which always runs on one thread of the CPU.

    Raises:
        BundleError: It cannot be loaded, or has an input that is no latent of a motion.
    """
    session = _small_session(path)
    _check_inputs(path, session, {"motion_init", "motion_noise", "category", "content"})
    return session


def encoder_session(path: pathlib.Path) -> ort.InferenceSession:
    """Loads `encode.onnx`, which runs on one thread of the CPU: a picture costs less than a frame.

    Raises:
        BundleError: It cannot be loaded, or has another input than `image`.
    """
    session = _small_session(path)
    _check_inputs(path, session, {"image"})
    return session


def _small_session(path: pathlib.Path) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), _session_options(1, spinning=False), providers=[PROVIDERS["cpu"]])
    except Exception as error:
        raise BundleError(f"{path} cannot be loaded: {one_line(error)}") from error


def _check_inputs(path: pathlib.Path, session: ort.InferenceSession, known: set[str]) -> None:
    unknown = {value.name for value in session.get_inputs()} - known
    if unknown:
        raise BundleError(f"{path} has inputs that this server does not know: {', '.join(sorted(unknown))}")


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
        one_clip: All rows of a run are frames of one clip.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        size: int,
        frame_shape: tuple[int, int, int],
        device_id: int | None = None,
        one_clip: bool = False,
    ) -> None:
        self.session = session
        self.size = size
        self.frame_shape = frame_shape
        self.one_clip = one_clip
        self.widths: dict[str, int] = {value.name: value.shape[-1] for value in self.session.get_inputs()}
        self.binding: Any = None
        if device_id is not None:
            self.bind("cuda", device_id)

    def bind(self, device: str, device_id: int) -> None:
        """Allocates inputs and output on the device once, at fixed addresses, instead of in every call."""
        self.binding = self.session.io_binding()
        nothing = {name: np.zeros((0, width), np.float32) for name, width in self.widths.items()}
        self.device_inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(zeros, device, device_id)
            for name, zeros in padded_feeds(nothing, self.widths, self.size).items()
        }
        for name, value in self.device_inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        shape = [self.size, 1, *self.frame_shape]
        self.device_output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, device_id)
        self.binding.bind_ortvalue_output("video", self.device_output)

    def run(self, rows: dict[str, Floats]) -> Floats:
        """Frames `[n, H, W, C]` for rows of width `[n, D]`, n at most the session's size."""
        feeds = padded_feeds(rows, self.widths, self.size, self.one_clip)
        if self.binding is None:
            video = self.session.run(["video"], feeds)[0]
        else:
            for name, value in feeds.items():
                self.device_inputs[name].update_inplace(value)
            self.session.run_with_iobinding(self.binding)
            video = self.device_output.numpy()
            if self.device_output.device_name() == "cpu":  # There it is a view; elsewhere it is a copy already.
                video = video.copy()
        frames: Floats = video.reshape(-1, *self.frame_shape)[: len(rows["motion"])]
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
        log.warning("TensorRT builds its engines anew at each start: %s", one_line(error))
        return None
    return folder


def preload_dlls() -> None:
    """Loads CUDA and cuDNN from pip packages, which are not on the loader's path by themselves.

    ONNX Runtime prints what it does not find.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            ort.preload_dlls(directory="")
        for line in filter(None, map(str.strip, printed.getvalue().splitlines())):
            log.warning("%s", line)


def has_driver() -> bool:
    """Whether NVIDIA's driver is on this machine."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
