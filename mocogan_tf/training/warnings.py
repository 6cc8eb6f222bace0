"""Warnings, in words, of how GANs go wrong."""

import pathlib

import numpy as np
from absl import logging

from mocogan_tf.gans import base
from mocogan_tf.training.callbacks import PerStep

EARLY = 1000  # Until this step every generator makes too few clips that hardly move, and nothing is said of it.
WINDOW = 500  # Steps over which losses and accuracies are averaged before anything is said of them.
WON = (0.02, 0.995)  # A discriminator's mean loss below and accuracy above which it has won.
BLIND = (1.35, 0.55)  # Its mean loss above and accuracy below which it tells nothing apart; by chance 1.386 and 0.5.
FEW = 0.25  # Of the real clips' diversity: the generator has forgotten most of what there is to make.
STILL, FLICKER = 0.1, 4.0  # Of the real clips' motion: frames alike; frames that change at random.


def balance_warning(name, flag, loss, accuracy):
    """Says in words what is wrong with a discriminator, or returns None.

    Args:
        name: Of the discriminator, as people read it.
        flag: The R1 flag of that discriminator.
        loss: Its mean loss.
        accuracy: Its mean accuracy.
    """
    if loss < WON[0] and accuracy > WON[1]:
        return (
            f"the {name} discriminator has won: loss {loss:.3f}, accuracy {accuracy:.3f}; the generator learns little. "
            f"Raise --noise_sigma, or without batch normalisation --{flag}, or lower --learning_rate_d."
        )
    if loss > BLIND[0] and accuracy < BLIND[1]:
        return (
            f"the {name} discriminator tells nothing apart: loss {loss:.3f}, accuracy {accuracy:.3f}. "
            f"Lower --noise_sigma or --{flag}, or raise --learning_rate_d."
        )
    return None


def collapse_warnings(scores):
    """Says in words what is wrong with the generated clips: a list, empty when nothing is.

    Args:
        scores: `diversity`, `motion`, and the same two of real clips, as of `metrics.monitor.Monitor`.
    """
    warnings = []
    diversity = scores["diversity"] / max(scores["diversity_real"], 1e-9)
    if diversity < FEW:
        warnings.append(
            f"mode collapse: generated clips differ from each other {diversity:.2f} times as much as real ones do. "
            "Go back to the best checkpoint and lower both learning rates; of MoCoGAN, or raise --r1_video, --r1_image."
        )
    motion = scores["motion"] / max(scores["motion_real"], 1e-9)
    if motion < STILL:
        warnings.append(
            f"motion collapse: generated frames change {motion:.2f} times as much as real ones do. "
            "Lower --d_video_rate, of MoCoGAN raise --dim_motion; if the real clips hardly move, raise --every_nth."
        )
    if motion > FLICKER:
        warnings.append(
            f"flicker: generated frames change {motion:.1f} times as much as real ones do. "
            "Early on this is usual; later lower --learning_rate, or raise --d_video_rate."
        )
    return warnings


class Warnings:
    """Says a warning in the log and keeps it in `warnings.log`; the same words only once."""

    def __init__(self, run_dir):
        self.path = pathlib.Path(run_dir) / "warnings.log"
        self.said = set()

    def say(self, step, text):
        subject = text.partition(":")[0]
        if subject not in self.said:
            self.said.add(subject)
            logging.warning("step %d: %s", step, text)
            with open(self.path, "a") as file:
                file.write(f"step {step}: {text}\n")


class BalanceWatch(PerStep):
    """Warns when a discriminator has won, or tells nothing apart, on the mean over `WINDOW` steps."""

    WATCHED = {
        "image": ("r1_image", base.LOSS_D_IMAGE, base.ACCURACY_D_IMAGE),
        "video": ("r1_video", base.LOSS_D_VIDEO, base.ACCURACY_D_VIDEO),
    }

    def __init__(self, run_dir, start_step):
        super().__init__(start_step)
        self.warnings = Warnings(run_dir)
        self.seen = []

    def on_step(self, previous, step, logs):
        self.seen.append(logs)
        if len(self.seen) < WINDOW:
            return
        for name, (flag, loss, accuracy) in self.WATCHED.items():
            if loss in logs:
                means = (float(np.mean([float(past[key]) for past in self.seen])) for key in (loss, accuracy))
                text = balance_warning(name, flag, *means)
                if text:
                    self.warnings.say(step, text)
        self.seen = []
