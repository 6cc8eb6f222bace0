"""What the commands share: flags made from `Config`, profiles, and errors that end in one line."""

import dataclasses
import os
import sys

from absl import app, flags, logging

from mocogan_tf.config import MODELS, Config, fields_of

_SMOKE = {
    "num_clips": 64,
    "ngf": 8,
    "ndf": 8,
    "video_batch": 4,
    "steps": 120,
    "log_every": 20,
    "sample_every": 60,
    "checkpoint_every": 60,
    "evaluate_every": 0,
}
# Overrides of `Config`'s defaults, by the profile's name and then by model.
PROFILES = {
    # The papers' networks and step counts at the published batch sizes.
    "paper": {"mocogan": {}, "vgan": {}, "tgan": {}},
    # Two cores, under an hour. All three see as many clips.
    "cpu": {
        "mocogan": {
            "num_clips": 2000,
            "dim_content": 8,
            "update_gate_bias": 1.0,
            "motion_init_scale": 0.5,
            "content_modulation": True,
            "decoder": "fine",
            "still_ground": True,
            "ngf": 32,
            "ndf": 32,
            "image_discriminator": "fine",
            "discriminator_norm": "none",
            "he_start": True,
            "video_size": "half",
            "early_frames": True,
            "noise_sigma": 0.0,
            "share_fakes": True,
            "r1_image": 0.1,
            "r1_video": 0.5,
            "learning_rate": 5e-4,
            "learning_rate_d": 2.5e-4,
            "final_rate": 0.1,
            "beta_2": 0.99,
            "ema_decay": 0.9995,
            "mask_weight": 0.2,
            "mask_steps": 1000,
            "video_batch": 8,
            "steps": 5500,
        },
        "vgan": {"num_clips": 2000, "ngf": 24, "ndf": 24, "video_batch": 8, "steps": 5000, "ema_decay": 0.995},
        "tgan": {
            "num_clips": 2000,
            "ngf": 24,
            "ndf": 24,
            "video_batch": 8,
            "steps": 5000,
            "learning_rate": 3e-4,
            "learning_rate_d": 3e-4,
            "ema_decay": 0.995,
        },
    },
    # About a minute: everything runs, nothing is learnt.
    "smoke": {
        "mocogan": {**_SMOKE, "image_batch": 8},
        "vgan": _SMOKE,
        "tgan": _SMOKE,
    },
}

# Recipes by name, on top of the profile.
PRESETS = {
    "none": {},
    # The paper's networks with 24 filters and R1, 5,000 steps: what options of the recipe are compared on.
    "plain": {
        "model": "mocogan",
        "num_clips": 2000,
        "dim_content": 50,
        "update_gate_bias": 0.0,
        "motion_init_scale": 1.0,
        "content_modulation": False,
        "decoder": "dcgan",
        "still_ground": False,
        "ngf": 24,
        "ndf": 24,
        "image_discriminator": "patch",
        "discriminator_norm": "none",
        "he_start": False,
        "video_size": "full",
        "early_frames": False,
        "noise_sigma": 0.0,
        "share_fakes": False,
        "r1_image": 0.3,
        "r1_video": 2.0,
        "mask_weight": 0.1,
        "mask_steps": 0,
        "learning_rate": 2e-4,
        "learning_rate_d": 2e-4,
        "final_rate": 1.0,
        "beta_2": 0.99,
        "ema_decay": 0.995,
        "image_batch": 16,
        "video_batch": 8,
        "steps": 5000,
    },
    # The authors' code under their published command for the actions: instance noise is all that steadies it.
    "authors": {
        "video_length": 16,
        "every_nth": 2,
        "model": "mocogan",
        "dim_content": 50,
        "dim_motion": 10,
        "category_to": "image",
        "update_gate_bias": 0.0,
        "motion_init_scale": 1.0,
        "content_modulation": False,
        "decoder": "dcgan",
        "still_ground": False,
        "ngf": 64,
        "ndf": 64,
        "image_discriminator": "patch",
        "discriminator_norm": "batch",
        "he_start": False,
        "video_size": "full",
        "early_frames": False,
        "noise_sigma": 0.1,
        "image_frames": 1,
        "share_fakes": False,
        "category_weight": 1.0,
        "r1_image": 0.0,
        "r1_video": 0.0,
        "label_smoothing": 0.0,
        "augment": "",
        "mask_weight": 0.1,
        "mask_steps": 0,
        "learning_rate": 2e-4,
        "learning_rate_d": 2e-4,
        "d_video_rate": 1.0,
        "warmup_steps": 0,
        "final_rate": 1.0,
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
        "A recipe on top of the profile: `authors` is the authors' code under their published command, sizes included; "
        "`plain` the paper's networks with 24 filters and R1. "
        "Other flags override it.",
    )
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string, bool: flags.DEFINE_bool}
    for field in dataclasses.fields(Config):
        choices, default = field.metadata["choices"], field.metadata["defaults"]["mocogan"]
        if choices:
            flags.DEFINE_enum(field.name, default, list(choices), _help(field))
        else:
            define[type(default)](field.name, default, _help(field))


def _help(field):
    """A field's help, with what differs between models."""
    defaults, only = field.metadata["defaults"], field.metadata["only"]
    differing = [f"{model}: {defaults[model]}" for model in only if defaults[model] != defaults["mocogan"]]
    notes = [f"{' and '.join(only)} only"] * (only != MODELS) + differing
    return field.metadata["help"] + (f" [{'; '.join(notes)}]" if notes else "")


def config_from_flags(values, profile):
    """Builds the configuration: the model's defaults, its profile, the preset, then the flags that were given.

    Args:
        values: absl's parsed `FLAGS`.
        profile: Name of a profile.

    Raises:
        ValueError: As `Config`; or a flag was given that the model has no use for.
    """
    given = {f.name: values[f.name].value for f in dataclasses.fields(Config) if values[f.name].present}
    model = values["model"].value
    for name in given:
        if name not in fields_of(model):
            raise ValueError(f"--{name} does not apply to --model={model}. Leave it out.")
    preset = PRESETS[values.preset]
    if preset and model != preset["model"]:
        raise ValueError(f"--preset={values.preset} is a recipe for --model={preset['model']}. Received: {model}")
    return Config(**{**PROFILES[profile][model], **preset, **given})


def command(config):
    """Returns the command that trains a resolved configuration, from the profile that needs the fewest flags.

    Folders are left to the reader; so is the precision, which `auto` chooses on the machine at hand.
    """
    left = {"dataset", "model", "data_dir", "cache_dir", "precision"}
    if config.category_loss == "supervised":
        left |= {"dim_category", "category_loss"}  # Both follow from the clips' labels.
    values = {name: getattr(config, name) for name in fields_of(config.model) if name not in left}
    given = {}
    for profile in PROFILES:
        base = Config(**{**PROFILES[profile][config.model], "model": config.model})
        given[profile] = [_flag(name, value) for name, value in values.items() if getattr(base, name) != value]
    shortest = min(given, key=lambda profile: len(given[profile]))
    words = [f"--dataset={config.dataset}", *["--data_dir=CLIPS"] * bool(config.data_dir)]
    words += [f"--model={config.model}"] * (config.model != "mocogan")
    return " ".join(["python train.py", *words, f"--profile={shortest}", *given[shortest]])


def _flag(name, value):
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value}"


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
        except (ValueError, FloatingPointError, OSError, MemoryError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(guarded)
