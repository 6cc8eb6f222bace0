"""What the commands share: flags made from `Config`, profiles, and errors that end in one line."""

import dataclasses
import os
import sys

from absl import app, flags, logging

from mocogan_tf.config import Config

# Overrides of `Config`'s defaults, by name.
PROFILES = {
    # The paper's networks and step count at the published batch sizes.
    "paper": {},
    # Two cores, under an hour.
    "cpu": {
        "num_clips": 2000,
        "ngf": 24,
        "ndf": 24,
        "image_batch": 16,
        "video_batch": 8,
        "steps": 5000,
        "discriminator_norm": "none",
        "noise_sigma": 0.0,
        "r1_image": 0.3,
        "r1_video": 2.0,
        "beta_2": 0.99,
        "ema_decay": 0.995,
    },
    # About a minute: everything runs, nothing is learnt.
    "smoke": {
        "num_clips": 64,
        "ngf": 8,
        "ndf": 8,
        "image_batch": 8,
        "video_batch": 4,
        "steps": 120,
        "log_every": 20,
        "sample_every": 60,
        "checkpoint_every": 60,
    },
}

# Recipes by name, on top of the profile.
PRESETS = {
    "none": {},
    # The authors' code under their published command for the actions: instance noise is all that steadies it.
    "authors": {
        "video_length": 16,
        "every_nth": 2,
        "model": "mocogan",
        "dim_content": 50,
        "dim_motion": 10,
        "category_to": "image",
        "ngf": 64,
        "ndf": 64,
        "image_discriminator": "patch",
        "discriminator_norm": "batch",
        "noise_sigma": 0.1,
        "image_frames": 1,
        "category_weight": 1.0,
        "r1_image": 0.0,
        "r1_video": 0.0,
        "label_smoothing": 0.0,
        "augment": "",
        "learning_rate": 2e-4,
        "learning_rate_d": 2e-4,
        "d_video_rate": 1.0,
        "warmup_steps": 0,
        "beta_1": 0.5,
        "beta_2": 0.999,
        "weight_decay": 1e-5,
        "weight_decay_mode": "coupled",
        "ema_decay": 0.0,
        "image_batch": 32,
        "video_batch": 32,
        "steps": 100_000,
    },
}


def define_config_flags():
    """Defines one flag per field of `Config`, `--profile` and `--preset`."""
    flags.DEFINE_enum(
        "profile",
        "auto",
        ["auto", *PROFILES],
        "Sizes to start from: `paper` for GPUs, `cpu` for two cores and an hour, `smoke` for a minute; `auto` takes "
        "`paper` where a GPU is visible and `cpu` elsewhere. Other flags override it.",
    )
    flags.DEFINE_enum(
        "preset",
        "none",
        list(PRESETS),
        "A recipe on top of the profile: `authors` is the authors' code under their published command, sizes included. "
        "Other flags override it.",
    )
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string, bool: flags.DEFINE_bool}
    for field in dataclasses.fields(Config):
        choices = field.metadata["choices"]
        if choices:
            flags.DEFINE_enum(field.name, field.default, list(choices), field.metadata["help"])
        else:
            define[type(field.default)](field.name, field.default, field.metadata["help"])


def config_from_flags(values, profile):
    """Builds the configuration: defaults, then the profile, then the preset, then the flags that were given.

    Args:
        values: absl's parsed `FLAGS`.
        profile: Name of a profile.

    Raises:
        ValueError: As `Config`.
    """
    given = {f.name: values[f.name].value for f in dataclasses.fields(Config) if values[f.name].present}
    return Config(**{**PROFILES[profile], **PRESETS[values.preset], **given})


def run(main, positional=0):
    """Runs a command: `main(argv) -> exit code`; an expected error becomes one line and exit code 1.

    Args:
        main: Takes the arguments that are no flags, after the program's name.
        positional: How many of them it may be given.
    """
    # TensorFlow's start-up chatter would bury the command's own lines; its errors still come through.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def guarded(argv):
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        if len(argv) > 1 + positional:
            print(
                f"error: unexpected argument {argv[1 + positional]!r}; flags are written --name=value", file=sys.stderr
            )
            return 1
        try:
            return main(argv)
        except KeyboardInterrupt:  # Where a command has no state to save, such as while clips are decoded.
            print("stopped", file=sys.stderr)
            return 130
        except (ValueError, FloatingPointError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(guarded)
