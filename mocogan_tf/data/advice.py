"""What a person is told about their clips, and which flags fit them."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.config import Config

# Published rates such as 29.97 and 30, or 24 and 25, are alike to the eye.
_SAME_RATE = 1.1


@dataclasses.dataclass(frozen=True)
class Remark:
    """One remark that applies to `number` clips, and the name of the first of them."""

    name: str
    text: str
    number: int

    def __str__(self) -> str:
        more = f", and {self.number - 1} more" if self.number > 1 else ""
        return f"{self.name}: {self.text}{more}"


def grouped(rows: Iterable[Sequence[str]]) -> list[Remark]:
    """Groups (name, text) rows, most frequent first; texts that differ only in numbers or file names are one remark."""
    numbers: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for name, text in rows:
        file = name.rsplit("/", 1)[-1]
        # A clip called "5" must not take the number out of its remark.
        kind = re.sub(r"\d+", "0", text.replace(file, "") if "." in file else text)
        numbers[kind] += 1
        first.setdefault(kind, (name, text))
    return [Remark(*first[kind], number) for kind, number in numbers.most_common()]


def about_rates(rates: Iterable[float]) -> str:
    """Returns a remark on clips whose known frame rates differ, or ""."""
    known = sorted(rate for rate in rates if rate)
    if not known or known[-1] <= _SAME_RATE * known[0]:
        return ""
    return (
        f"frame rates differ, from {known[0]:.4g} to {known[-1]:.4g} per second, so the same movement is seen at "
        f"different speeds; prepare.py with --fps={known[0]:.4g} gives all clips one rate"
    )


def training_flags(config: Config, frames: int) -> list[str]:
    """Returns the flags with which clips of so many frames can be trained on; none if they can be already.

    The stride is lowered first. Only then is the training clip shortened, and only for MoCoGAN: the baselines' networks
    fix its length.
    """
    stride = min(config.every_nth, max(1, (frames - 1) // (config.video_length - 1)))
    flags = [f"--every_nth={stride}"] if stride != config.every_nth else []
    length = min(config.video_length, 1 + (frames - 1) // stride)
    if length < config.video_length and config.model == "mocogan":
        flags.append(f"--video_length={max(length, _shortest_clip())}")
    return flags


def flags_that_keep_most(config: Config, lengths: NDArray[np.int64], labels: NDArray[np.int32]) -> list[str]:
    """Returns the flags with which nine in ten clips, and some of every class, are long enough."""
    longest = [lengths[labels == label].max() for label in np.unique(labels)]
    return training_flags(config, int(min(np.quantile(lengths, 0.1, method="lower"), *longest)))


def _shortest_clip() -> int:
    return int(Config.__dataclass_fields__["video_length"].metadata["minimum"])


def changes(before: Mapping[str, str], after: Mapping[str, str], shown: int = 3) -> str:
    """Says in a few words how two sets of clips differ, given as `VideoSet.digests` returns them; "" if they do not."""
    kinds = {
        "gone": [name for name in before if name not in after],
        "new": [name for name in after if name not in before],
        "changed": [name for name, digest in before.items() if after.get(name, digest) != digest],
    }
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:shown])}{', ...' * (len(names) > shown)})"
        for kind, names in kinds.items()
        if names
    )
