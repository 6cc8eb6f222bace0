"""Feature networks that a person brings as ONNX files: I3D for `fvd`, C3D for `is`, a face network for `acd`.

The contract is small. One input: clips `[N, C, T, H, W]` or `[N, T, H, W, C]`, or images `[N, C, H, W]` or
`[N, H, W, C]`; the place of the channels (3, or 1) tells which. float32 inputs get RGB in [-1, 1], uint8
inputs 0 to 255; whatever else a network wants (means, BGR, crops) belongs in its file. H and W, where the file fixes
them, are reached by bilinear resizing. The output `[N, D]` are features, logits or probabilities.
"""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mocogan_tf.video import from_uint8

_LAYOUTS = {5: ("NCTHW", "NTHWC"), 4: ("NCHW", "NHWC")}


class OnnxFeatures:
    """A feature network in an ONNX file, run by ONNX Runtime.

    Args:
        path: The file.
        rank: 5 for a network on clips, 4 for one on images.

    Attributes:
        name: File name and the beginning of its SHA-256.
        layout: Letters of the input's axes.

    Raises:
        ValueError: The file is missing or no ONNX model, or its input or output is not as above.
    """

    def __init__(self, path: str | pathlib.Path, rank: int) -> None:
        import onnxruntime

        self.path = pathlib.Path(path)
        try:
            content = self.path.read_bytes()
            self._session = onnxruntime.InferenceSession(str(self.path), providers=_providers(onnxruntime))
        except OSError as error:
            raise ValueError(f"Cannot read the feature network {path}: {error.strerror or error}.") from error
        except Exception as error:  # ONNX Runtime has its own exceptions, one per kind of damage.
            raise ValueError(f"{path} is no model that ONNX Runtime can load: {_first_line(error)}") from error
        self.name = f"{self.path.name} sha256:{hashlib.sha256(content).hexdigest()[:12]}"
        inputs = self._session.get_inputs()
        expected = " or ".join(_LAYOUTS[rank])
        found = "; ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
        if len(inputs) != 1:
            raise ValueError(f"{path} must have one input, {expected}. Found: {found}.")
        self._input = inputs[0]
        shape = self._input.shape
        fitting = [layout for layout in _LAYOUTS[rank] if len(shape) == rank and shape[layout.index("C")] in (1, 3)]
        if len(fitting) != 1:
            raise ValueError(
                f"{path} must have one input, {expected} with C = 3 or 1 fixed in the file. Found: {found}."
            )
        if self._input.type not in ("tensor(float)", "tensor(uint8)"):
            raise ValueError(f"{path} must have an input of float32 (in [-1, 1]) or uint8. Found: {found}.")
        self.layout = fitting[0]
        self._size = {letter: shape[self.layout.index(letter)] for letter in self.layout[1:]}
        outputs = self._session.get_outputs()
        flat = [entry for entry in outputs if entry.shape is not None and len(entry.shape) == 2]
        if len(flat) != 1:
            listed = "; ".join(f"{entry.name} {entry.shape}" for entry in outputs)
            raise ValueError(f"{path} must have exactly one output [N, D]. Found: {listed}.")
        self._output = flat[0].name

    def __call__(self, frames: NDArray[np.uint8], batch_size: int = 16) -> NDArray[np.float32]:
        """Returns float32 `[N, D]` of uint8 clips `[N, T, H, W, C]`, or of images `[N, H, W, C]`.

        Raises:
            ValueError: The network wants another number of frames or channels, or gives no finite numbers.
        """
        self._check(frames)
        batches = [self._run(frames[first : first + batch_size]) for first in range(0, len(frames), batch_size)]
        features = np.concatenate(batches)
        if len(features) != len(frames) or not np.isfinite(features).all():
            raise ValueError(f"{self.path} gave {list(features.shape)} for {len(frames)} clips, or no finite numbers.")
        return features

    def _check(self, frames: NDArray[np.uint8]) -> None:
        letters = "NTHWC" if len(self.layout) == 5 else "NHWC"
        given = dict(zip(letters, frames.shape, strict=True))
        wanted = self._size.get("T")
        if isinstance(wanted, int) and given["T"] != wanted:
            raise ValueError(
                f"{self.path} takes clips of {wanted} frames. Received: clips of {given['T']} frames. "
                f"Export it with a free number of frames, or give clips of {wanted}."
            )
        if given["C"] not in (self._size["C"], 1):
            raise ValueError(f"{self.path} takes {self._size['C']} channels. Received: clips of {given['C']}.")

    def _run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        if frames.shape[-1] < self._size["C"]:
            frames = frames.repeat(self._size["C"], axis=-1)
        frames = resized(frames, self._size["H"], self._size["W"])
        values: Any = from_uint8(frames) if self._input.type == "tensor(float)" else frames
        if self.layout[1] == "C":
            values = np.moveaxis(values, -1, 1)
        try:
            outputs = self._session.run([self._output], {self._input.name: np.ascontiguousarray(values)})
        except Exception as error:
            raise ValueError(
                f"{self.path} fails on clips of shape {list(values.shape)}: {_first_line(error)}"
            ) from error
        return np.asarray(outputs[0], np.float32)


def resized(frames: NDArray[np.uint8], height: Any, width: Any) -> NDArray[np.uint8]:
    """Resizes `[..., H, W, C]` bilinearly; a size that is no int stays as it is."""
    old_height, old_width, channels = frames.shape[-3:]
    height, width = (new if isinstance(new, int) else old for new, old in ((height, old_height), (width, old_width)))
    if (height, width) == (old_height, old_width):
        return frames
    flat = frames.reshape(-1, old_height, old_width, channels)
    pictures = [Image.fromarray(frame[..., 0] if channels == 1 else frame) for frame in flat]
    small = [np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)) for picture in pictures]
    return np.stack(small).reshape(*frames.shape[:-3], height, width, channels)


def as_probabilities(outputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns rows that sum to one: as they are, or by softmax where they are logits."""
    values = outputs.astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        return values
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def _providers(onnxruntime: Any) -> list[str]:
    available = onnxruntime.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
