"""What a batch must be, checked by name before anything deep fails on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

Shapes = Mapping[str, tuple[int, ...]]  # Of one example, by the batch's keys.


def check(batch: Any, shapes: Shapes) -> None:
    """Checks keys, shapes and types of a batch, or of its specification (`tf.data.Dataset.element_spec`).

    Raises:
        ValueError: They do not fit. The message says what was received and what is expected.
    """
    expected = f"a dict of {', '.join(f'{name} {_words(shape)}' for name, shape in shapes.items())}"
    if not isinstance(batch, Mapping):
        raise ValueError(f"A batch must be {expected}. Received: a {type(batch).__name__}.")
    missing = [name for name in shapes if name not in batch]
    if missing:
        received = ", ".join(map(str, batch)) or "nothing"
        raise ValueError(f"A batch must be {expected}. Missing: {', '.join(missing)}. Received: {received}.")
    for name, shape in shapes.items():
        found, dtype = tf.TensorShape(batch[name].shape), tf.as_dtype(batch[name].dtype)  # NumPy's arrays as well.
        if found.rank is None or tuple(found[1:]) != shape:
            raise ValueError(f"`{name}` must be {_words(shape)}. Received: {found}.")
        if found[0] is None:
            raise ValueError(
                f"The batch size of `{name}` must be fixed. Give a tf.data.Dataset made with "
                f".batch(B, drop_remainder=True). Received: {found}."
            )
        if name == "labels" and not dtype.is_integer:
            raise ValueError(f"`labels` must be integers. Received: {dtype.name}.")
        if name != "labels" and not (dtype == tf.uint8 or dtype.is_floating):
            raise ValueError(f"`{name}` must be uint8 in 0..255, or floating point in [-1, 1]. Received: {dtype.name}.")


def check_values(batch: Mapping[str, tf.Tensor], shapes: Shapes, num_categories: int) -> None:
    """Checks the range of pixels and labels of a batch that passed `check`.

    Raises:
        ValueError: Pixels in floating point are not in [-1, 1], or labels are no categories.
    """
    for name in shapes:
        low, high = float(tf.reduce_min(batch[name])), float(tf.reduce_max(batch[name]))
        if name == "labels" and not 0 <= low <= high < num_categories:
            raise ValueError(f"`labels` must be in [0, {num_categories}). Received: from {low:g} to {high:g}.")
        if name != "labels" and batch[name].dtype.is_floating and not -1.01 <= low <= high <= 1.01:
            raise ValueError(
                f"`{name}` in floating point must be in [-1, 1]. Give uint8, or scale it by x / 127.5 - 1. "
                f"Received: from {low:g} to {high:g}."
            )


def _words(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['B', *map(str, shape)])}]"
