"""Warnings in words about the usual failures of GANs."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from absl import logging

from mocogan_tf.gans import base
from mocogan_tf.training.callbacks import PerStep

EARLY = 1000  # Before this step every generator makes too few clips that hardly move, so nothing is said.
WINDOW = 500  # Steps over which losses and accuracies are averaged before they are judged.
WON = (0.02, 0.995)  # A discriminator has won if its mean loss is below and its accuracy above these.
BLIND = (1.35, 0.55)  # It tells nothing apart if loss is above and accuracy below these; chance is 1.386 and 0.5.
FEW = 0.25  # Share of the real clips' diversity below which the generator makes too few different clips.
STILL, FLICKER = 0.1, 4.0  # Shares of the real clips' motion: below, frames are alike; above, they flicker.


def balance_warning(name: str, flag: str, loss: float, accuracy: float) -> str | None:
    """Returns a sentence about what is wrong with a discriminator, or None.

    Args:
        name: Name of the discriminator.
        flag: The R1 flag of that discriminator.
        loss: Its mean loss.
        accuracy: Its mean accuracy.
    """
    if loss < WON[0] and accuracy > WON[1]:
        return (
            f"the {name} discriminator has won: loss {loss:.3f}, accuracy {accuracy:.3f}; the generator learns little. "
            f"Raise --noise_sigma, or lower --learning_rate_d; without batch normalisation, --{flag} can be raised too."
        )
    if loss > BLIND[0] and accuracy < BLIND[1]:
        return (
            f"the {name} discriminator tells nothing apart: loss {loss:.3f}, accuracy {accuracy:.3f}. "
            f"Lower --noise_sigma or --{flag}, or raise --learning_rate_d."
        )
    return None


def collapse_warnings(scores: dict[str, float]) -> list[str]:
    """Returns sentences about what is wrong with the generated clips; an empty list if nothing is.

    Args:
        scores: `diversity`, `motion`, and the same two of real clips, as of `metrics.monitor.Monitor`.
    """
    warnings = []
    diversity = scores["diversity"] / max(scores["diversity_real"], 1e-9)
    if diversity < FEW:
        warnings.append(
            f"mode collapse: generated clips differ from each other {diversity:.2f} times as much as real ones do. "
            "Go back to the best checkpoint and lower both learning rates. For MoCoGAN, raising --r1_video or "
            "--r1_image may help instead."
        )
    motion = scores["motion"] / max(scores["motion_real"], 1e-9)
    if motion < STILL:
        warnings.append(
            f"motion collapse: generated frames change {motion:.2f} times as much as real ones do. "
            "Lower --d_video_rate; for MoCoGAN, raise --dim_motion. If the real clips hardly move, raise --every_nth."
        )
    if motion > FLICKER:
        warnings.append(
            f"flicker: generated frames change {motion:.1f} times as much as real ones do. "
            "This is usual early on. Later, lower --learning_rate or raise --d_video_rate."
        )
    return warnings


class Warnings:
    """Logs each kind of warning once and appends it to `warnings.log`."""

    def __init__(self, run_dir: str | pathlib.Path) -> None:
        self.path = pathlib.Path(run_dir) / "warnings.log"
        self.said: set[str] = set()

    def say(self, step: int, text: str) -> None:
        """Logs a warning, unless one of the same kind, which stands before the colon, was logged before."""
        subject = text.partition(":")[0]
        if subject not in self.said:
            self.said.add(subject)
            logging.warning("step %d: %s", step, text)
            with open(self.path, "a") as file:
                file.write(f"step {step}: {text}\n")


class BalanceWatch(PerStep):
    """Warns when a discriminator has won or tells nothing apart, judged by means over `WINDOW` steps."""

    WATCHED = {
        "image": ("r1_image", base.LOSS_D_IMAGE, base.ACCURACY_D_IMAGE),
        "video": ("r1_video", base.LOSS_D_VIDEO, base.ACCURACY_D_VIDEO),
    }

    def __init__(self, run_dir: str | pathlib.Path, start_step: int) -> None:
        super().__init__(start_step)
        self.warnings = Warnings(run_dir)
        self.seen: list[dict[str, Any]] = []
        self.since = start_step

    def on_step(self, previous: int, step: int, logs: Any) -> None:
        """Remembers the losses of the last step, and judges them at the end of a window."""
        self.seen.append(logs)
        if step - self.since < WINDOW:
            return
        for name, (flag, loss, accuracy) in self.WATCHED.items():
            if loss in logs:
                means = (float(np.mean([float(past[key]) for past in self.seen])) for key in (loss, accuracy))
                text = balance_warning(name, flag, *means)
                if text:
                    self.warnings.say(step, text)
        self.seen, self.since = [], step
