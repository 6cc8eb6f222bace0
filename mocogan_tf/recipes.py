"""Profiles and presets: values of `Config` by name, and the command that gives a configuration again."""

from __future__ import annotations

from typing import Any

from mocogan_tf.config import TASKS, Config, fields_of

Values = dict[str, Any]

_SMOKE: Values = {
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
# What replaces `Config`'s defaults, by the profile's name and then by model.
PROFILES: dict[str, dict[str, Values]] = {
    # The papers' networks and step counts at the published batch sizes. A GPU makes several steps per call of the host.
    "paper": {model: {"steps_per_execution": 10} for model in ("mocogan", "vgan", "tgan")},
    # Two cores, about an hour. All three models see about as many clips.
    "cpu": {
        "mocogan": {
            "num_clips": 2000,
            "dim_content": 8,
            "update_gate_bias": 1.0,
            "motion_init_scale": 0.5,
            "rotating_start": True,
            "category_to": "both",
            "conditional_video": True,
            "content_modulation": True,
            "modulate_from": 16,
            "decoder": "fine",
            "still_background": True,
            "palette": 8,
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
            "mask_weight": 1.0,
            "mask_allowance": 0.3,
            "video_batch": 8,
            "steps": 3600,
            "evaluate_every": 500,
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
    # About a minute: everything runs, nothing is learned.
    "smoke": {
        "mocogan": {**_SMOKE, "image_batch": 8},
        "vgan": _SMOKE,
        "tgan": _SMOKE,
    },
}

# What a task changes in every profile, by the task's name.
TASK_VALUES: dict[str, Values] = {
    "generate": {},
    # A picture needs a larger code than a random person, and it decides the first pose, which noise only varies. What
    # moves is learnt for all pictures together.
    "image_to_video": {
        "task": "image_to_video",
        "conditional_video": False,
        "decoder": "fine",
        "dim_content": 48,
        "motion_init_scale": 0.1,
        "content_modulation": True,
        "modulate_from": 16,
        "palette": 0,
        "mask_weight": 1.0,
        "mask_steps": 0,
        "mask_allowance": 0.3,
    },
}

# Recipes by name, on top of the profile.
PRESETS: dict[str, Values] = {
    "none": {},
    # The paper's networks with 24 filters and R1, 5,000 steps: the recipe that single options are compared on.
    "plain": {
        "model": "mocogan",
        "num_clips": 2000,
        "dim_content": 50,
        "category_to": "motion",
        "conditional_video": False,
        "update_gate_bias": 0.0,
        "motion_init_scale": 1.0,
        "rotating_start": False,
        "content_modulation": False,
        "modulate_from": 4,
        "decoder": "dcgan",
        "still_background": False,
        "palette": 0,
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
        "mask_allowance": 0.0,
        "learning_rate": 2e-4,
        "learning_rate_d": 2e-4,
        "final_rate": 1.0,
        "beta_2": 0.99,
        "ema_decay": 0.995,
        "image_batch": 16,
        "video_batch": 8,
        "steps": 5000,
    },
    # The authors' code under their published command for the actions. Only instance noise steadies it.
    "authors": {
        "video_length": 16,
        "every_nth": 2,
        "model": "mocogan",
        "dim_content": 50,
        "dim_motion": 10,
        "category_to": "image",
        "conditional_video": False,
        "update_gate_bias": 0.0,
        "motion_init_scale": 1.0,
        "rotating_start": False,
        "content_modulation": False,
        "modulate_from": 4,
        "decoder": "dcgan",
        "still_background": False,
        "palette": 0,
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
        "mask_allowance": 0.0,
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


def configuration(profile: str, preset: str, given: Values) -> Config:
    """Builds a configuration: the model's defaults, then the profile, the task, the preset, and what is given.

    Args:
        profile: Name of a profile.
        preset: Name of a preset.
        given: Values by the name of their field.

    Raises:
        ValueError: As `Config`, for what is given; or a value is given that the model has no use for.
    """
    chosen = PRESETS[preset]
    model = given.get("model", "mocogan")
    if chosen and model != chosen["model"]:
        raise ValueError(f"--preset={preset} is a recipe for --model={chosen['model']}. Received: {model}")
    for name in given:
        if name not in fields_of(model):
            raise ValueError(f"--{name} does not apply to --model={model}. Leave it out.")
    task = TASK_VALUES.get(given.get("task", "generate"), {})  # `Config` refuses unknown ones.
    return Config(**{**PROFILES[profile][model], **task, **chosen, **given}, asked=given)


def command(config: Config) -> str:
    """Returns the command that trains a resolved configuration, from the profile and preset that need the fewest flags.

    The reader fills in the folders. The precision is left out: `auto` chooses it on the machine at hand.
    """
    left = {"dataset", "model", "data_dir", "cache_dir", "precision"}
    if config.category_loss == "supervised":
        left |= {"dim_category", "category_loss"}  # Both follow from the clips' labels.
    told = (name for name in fields_of(config.model) if name not in left and not config.is_idle(name))
    values = {name: getattr(config, name) for name in told}
    start = {"model": config.model, **({"task": config.task} if config.task != TASKS[0] else {})}
    candidates = []
    for profile in PROFILES:
        for preset, preset_values in PRESETS.items():
            if preset_values.get("model", config.model) == config.model:
                base = _base(profile, preset, start)
                if base is None:
                    continue
                given = [_flag(name, value) for name, value in values.items() if getattr(base, name) != value]
                candidates.append([f"--profile={profile}", *[f"--preset={preset}"] * (preset != "none"), *given])
    words = [f"--dataset={config.dataset}", *["--data_dir=CLIPS"] * bool(config.data_dir)]
    words += [f"--model={config.model}"] * (config.model != "mocogan")
    words += [f"--task={config.task}"] * (config.task != TASKS[0])
    return " ".join(["python train.py", *words, *min(candidates, key=len)])


def _base(profile: str, preset: str, start: Values) -> Config | None:
    """The configuration of a profile and preset; None if that preset cannot do the task."""
    try:
        return configuration(profile, preset, start)
    except ValueError:
        return None


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value}"
