"""The engine: latents in, frames out, on the best provider that works. It knows no HTTP and no queue.

A clip is made in two steps. `motion.onnx` (a GRU of about ten units, microseconds) always runs on the CPU and turns a
clip's noise into one motion code per frame. `frames.onnx` turns rows (content, motion, perhaps category) into
pictures, one row per frame, whichever clip a row belongs to. So frames of different clips, of any lengths, share a
batch without padding one clip to another; on a CPU, frames of one clip run together, and what does not move is computed
once. The heavy graph sees a few fixed sizes only (buckets), as cuDNN's plans, CUDA graphs and OpenVINO's compiled
models need. A stream continues from a GRU state.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mocogan_tf.video import from_uint8
from serving.runtime import onnx_runtime, openvino_runtime, providers
from serving.runtime.bundle import Bundle
from serving.runtime.errors import BundleError, one_line
from serving.runtime.options import ON_GPU, EngineError, EngineOptions, Floats, available_cpus
from serving.runtime.workers import Workers, name_of

Golden = tuple[dict[str, Floats], Floats]  # Latents and their video.
STATE_TOLERANCE = 1e-3  # The motion network runs in float32 everywhere.
log = logging.getLogger("serving.runtime.engine")


class Engine:
    """A bundle, loaded and warm.

    `provider` and `precision` are the active ones, not those asked for. Workers render at the same time, each one
    batch. `motion` may be called from any thread.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions | None = None) -> None:
        """Loads, warms, checks and, if there is a choice, measures.

        Raises:
            EngineError: The provider does not work, or its results differ from the golden ones.
            BundleError: A model file does not fit the manifest.
        """
        self.bundle = bundle
        self.options = options or EngineOptions()
        self.threads = self.options.threads or max(1, available_cpus() // self.options.workers)
        self._motion = onnx_runtime.motion_session(bundle.files["motion"])
        self._motion_inputs = [value.name for value in self._motion.get_inputs()]
        self._encoder = None
        if bundle.pictures is not None:
            self._encoder = onnx_runtime.encoder_session(bundle.files["encode"])
            self._check_encoder()
        self._workers, self.golden_difference, self.chosen = self._choose(self._read_golden())

    @property
    def provider(self) -> str:
        return self._workers.choice.provider

    @property
    def precision(self) -> str:
        return self._workers.choice.precision

    @property
    def cuda_graph(self) -> bool:
        return self._workers.choice.cuda_graph

    def _choose(self, golden: Golden) -> tuple[Workers, float, str]:
        """Returns the workers to use, how far they are from the golden clip, and why they were chosen."""
        working: list[tuple[Workers, float]] = []
        attempts = providers.to_try(self.options)
        try:
            for attempt in attempts:
                name = name_of(attempt[0]) + (" with CUDA graphs" if attempt[1] else "")
                try:
                    working.append(self._load(*attempt, golden))
                except BundleError:
                    raise
                except Exception as error:
                    is_last = attempt == attempts[-1]
                    # What fails on ONNX Runtime's CPU is the bundle's fault, whatever looser bounds others allow.
                    if attempt[0] == "cpu" or (is_last and not working):
                        if isinstance(error, EngineError):
                            raise
                        raise EngineError(f"{name} does not work: {one_line(error)}") from error
                    instead = f"using {working[0][0].choice} instead" if is_last else "trying the next"
                    log.warning("%s does not work, %s: %s", name, instead, one_line(error))
                    continue
                if working[-1][0].choice.on_gpu:
                    break
            best, reason = 0, "asked for" if self.options.provider != "auto" else "the only one that works here"
            if working[0][0].choice.on_gpu and self.options.provider == "auto":
                reason = "a GPU comes first"
            if len(working) > 1:
                best, reason = providers.fastest([workers for workers, _ in working], self.bundle)
        except BaseException:
            for workers, _ in working:
                workers.close()
            raise
        for workers, _ in working[:best] + working[best + 1 :]:
            workers.close()
        return *working[best], reason

    def _load(self, provider: str, cuda_graph: bool, golden: Golden) -> tuple[Workers, float]:
        """Loads, warms and checks a provider; returns its workers and their largest difference to the golden clip."""
        if provider in ON_GPU:
            onnx_runtime.preload_dlls()
        choice = providers.choice_of(provider, cuda_graph, self.options, self.bundle)
        workers = Workers(self.bundle, choice, self.options, self.threads)
        try:
            if cuda_graph and not workers.replays_right():
                raise EngineError("a replay does not give the same frames.")
            return workers, self._check(workers, golden)
        except BaseException:
            workers.close()
            raise

    def _read_golden(self) -> Golden:
        """Returns the golden latents and video. Raises EngineError if seed or motion network give others."""
        golden = self.bundle.golden()
        size = golden["motion_noise"].shape[:2]
        latents = {name: golden[name] for name in self.bundle.latents.shapes(*size)}
        drawn = self.bundle.sample(*size, seed=int(golden["seed"]))
        for name, value in latents.items():
            if not np.allclose(drawn[name], value, atol=1e-5):
                raise EngineError(
                    f"Seed {int(golden['seed'])} draws another `{name}` than {self.bundle.folder}'s golden"
                )
        difference = float(np.max(np.abs(self.motion(latents)[1] - golden["motion_state"]), initial=0.0))
        if not difference <= STATE_TOLERANCE:  # Written so that NaN fails, here and below.
            raise EngineError(
                f"The motion state of {self.bundle.folder} differs from its golden.npz by {difference:.3g}."
            )
        return latents, golden["video"]

    def _check(self, workers: Workers, golden: Golden) -> float:
        """Returns the largest difference to the golden video. Raises EngineError if it is too large."""
        latents, expected = golden
        motion, _ = self.motion(latents)
        video = workers.render(self._rows(workers, latents, motion)).reshape(expected.shape)
        errors = np.abs(video - expected)
        largest, root_mean_square = float(np.max(errors, initial=0.0)), float(np.sqrt(np.mean(errors**2)))
        bounds = workers.choice.tolerance
        if not (largest <= bounds[0] and root_mean_square <= bounds[1]):
            raise EngineError(
                f"{self.bundle.folder} on {workers.choice} differs from its golden.npz by {largest:.3g}, root mean "
                f"square {root_mean_square:.2g}; allowed are {bounds[0]:.3g} and {bounds[1]:.2g}."
            )
        return largest

    def _check_encoder(self) -> None:
        """Raises EngineError if the encoder makes of the bundle's pictures other contents than the bundle has."""
        pictures, contents = self.bundle.pictures, self.bundle.contents
        assert pictures is not None and contents is not None
        made = self.encode(pictures)
        if made.shape == contents.shape:
            difference = float(np.max(np.abs(made - contents)) / max(1.0, float(np.max(np.abs(contents)))))
            if difference <= STATE_TOLERANCE:
                return
        raise EngineError(f"{self.bundle.files['encode']} does not make the contents of the bundle's own pictures.")

    def encode(self, pictures: NDArray[np.uint8]) -> Floats:
        """The contents `[N, dim_content]` of pictures uint8 `[N, H, W, C]`. May be called from any thread."""
        assert self._encoder is not None
        contents: Floats = self._encoder.run(["content"], {"image": from_uint8(pictures)})[0]
        return contents

    def motion(self, latents: dict[str, Floats]) -> tuple[Floats, Floats]:
        """Motion codes `[B, T, dim_motion]` and the GRU's last state `[B, dim_motion]`."""
        feeds = {name: latents[name] for name in self._motion_inputs}
        codes, state = self._motion.run(["motion", "motion_state"], feeds)
        return codes, state

    @staticmethod
    def _rows(workers: Workers, latents: dict[str, Floats], motion: Floats) -> dict[str, Floats]:
        fixed = [name for name in workers.widths if name != "motion"]
        rows = {name: np.repeat(latents[name], motion.shape[1], axis=0) for name in fixed}
        return {"motion": motion.reshape(-1, motion.shape[2]), **rows}

    def rows(self, latents: dict[str, Floats], motion: Floats) -> dict[str, Floats]:
        """One row per frame, clip after clip, for `render`: `[B * T, D]` by input name."""
        return self._rows(self._workers, latents, motion)

    def render(self, rows: dict[str, Floats], worker: int = 0) -> Floats:
        """Frames `[N, H, W, C]` for rows `[N, D]`."""
        return self._workers.render(rows, worker)

    def generate(self, latents: dict[str, Floats], worker: int = 0) -> tuple[Floats, Floats]:
        """Video `[B, T, H, W, C]` in [-1, 1] and motion state `[B, dim_motion]`, on this thread and without a queue."""
        motion, state = self.motion(latents)
        video = self.render(self.rows(latents, motion), worker)
        return video.reshape(*motion.shape[:2], *self.bundle.frame_shape), state

    def describe(self) -> dict[str, Any]:
        """What runs where and why, for the log and `/info`."""
        choice = self._workers.choice
        libraries = {"onnxruntime": ort.__version__}
        if choice.provider == "openvino":
            libraries["openvino"] = openvino_runtime.version()
        return {
            "provider": choice.provider_name,
            "precision": choice.precision,
            "chosen": self.chosen,
            "cuda_graph": choice.cuda_graph,
            "threads": self.threads,
            "workers": self.options.workers,
            "frame_buckets": list(self._workers.buckets),
            **libraries,
            "golden_difference": self.golden_difference,
            "golden_tolerance": choice.tolerance[0],
        }

    def close(self) -> None:
        """Frees the sessions; nothing may be rendering."""
        self._workers.close()
