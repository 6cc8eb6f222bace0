"""Promises of the configuration and the profiles."""

import dataclasses
import json
import subprocess
import sys

import pytest

from mocogan_tf import recipes
from mocogan_tf.config import FREE_ON_RESUME, MODELS, Config, differences
from mocogan_tf.training import run_directory

pytestmark = pytest.mark.core


def test_json_round_trip(tmp_path):
    config = Config(ngf=8, dataset="shapes", learning_rate=1e-5, deterministic=True)
    (tmp_path / "config.json").write_text(config.to_json())
    assert Config.from_json(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("profile", "changes"),
    [
        ("cpu", {"model": "mocogan", "dataset": "shapes", "learning_rate": 5e-4, "share_fakes": True}),
        ("paper", {"model": "tgan", "dataset": "folder", "data_dir": "/clips", "sync_batch_norm": False, "seed": 7}),
        ("smoke", {"model": "mocogan", "dim_category": 4, "category_loss": "infogan", "augment": "cutout"}),
        ("cpu", {"model": "mocogan", "dataset": "shapes", "dim_category": 0, "category_loss": "none"}),
        ("cpu", {"model": "mocogan", "still_background": False, "image_discriminator": "none"}),
        ("paper", {"model": "mocogan", "task": "image_to_video", "reconstruct_weight": 5.0}),
    ],
)
def test_the_command_of_a_configuration_gives_it_again(profile, changes):
    config = recipes.configuration(profile, "none", changes)
    words = recipes.command(config.resolve_categories(2)).removeprefix("python train.py ").replace("CLIPS", "/clips")
    # In a process of its own: absl's flags are defined once.
    code = (
        "import sys; from absl import flags; from mocogan_tf import cli; cli.define_config_flags(); "
        "flags.FLAGS(sys.argv); print(cli.config_from_flags(flags.FLAGS.profile).to_json())"
    )
    process = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True)
    assert json.loads(process.stdout) == json.loads(config.to_json())
    assert f"--profile={profile}" in words and len(words.split()) <= len(changes) + 2


@pytest.mark.parametrize("content", ["", "[1]", '{"ngf": 8, "colour": "red"}'])
def test_a_file_that_is_no_configuration_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json"):
        Config.from_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"ngf": 0},
        {"ngf": 1.5},
        {"ngf": True},
        {"video_length": 3},
        {"image_size": 65},
        {"channels": 4},
        {"beta_1": 1.0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"category_to": "decoder"},
        {"r1_video": 1.0},  # With batch normalisation.
        {"dim_category": 0, "category_loss": "supervised"},
        {"augment": "colour,zoom"},
        {"image_frames": 17},
        {"task": "animate"},
        {"task": "image_to_video", "content_modulation": True},  # With the paper's decoder.
        {"task": "image_to_video", "decoder": "fine"},  # Without content_modulation.
        {"still_background": True},  # With the paper's decoder.
        {"palette": 8},
        {"content_modulation": True, "modulate_from": 12},
        {"content_modulation": True, "modulate_from": 64, "image_size": 32},
        {"content_modulation": True, "modulate_from": 64},  # The paper's decoder has no hidden map of that height.
        {"mask_allowance": 1.0},
        {"video_size": "half"},
        {"final_rate": -0.1},
    ],
)
def test_values_out_of_range_are_refused_with_what_was_received(wrong):
    with pytest.raises(ValueError, match="Received"):
        Config(**wrong)


@pytest.mark.parametrize(
    ("given", "num_categories", "dim", "loss"),
    [
        ({}, 4, 4, "supervised"),
        ({}, 0, 0, "none"),
        ({"dim_category": 6}, 0, 6, "infogan"),
        ({"dim_category": 0}, 4, 0, "none"),
        ({"category_loss": "infogan"}, 4, 4, "infogan"),
        ({"category_loss": "none"}, 4, 0, "none"),
        ({"category_loss": "none", "dim_category": 4}, 4, 4, "none"),
    ],
)
def test_categories_follow_from_the_clips(given, num_categories, dim, loss):
    resolved = Config(**given).resolve_categories(num_categories)
    assert (resolved.dim_category, resolved.category_loss) == (dim, loss)


def test_supervised_without_labels_is_refused():
    with pytest.raises(ValueError, match="these have 0"):
        Config(dim_category=4, category_loss="supervised").resolve_categories(0)


def test_the_clip_needs_the_frames_between_its_frames():
    assert Config(video_length=16, every_nth=2).source_frames == 31


def test_only_what_decides_the_method_makes_another_run():
    old = Config()
    assert differences(old, dataclasses.replace(old, steps=1, log_every=1, data_dir="elsewhere")) == []
    assert differences(old, dataclasses.replace(old, ngf=8, seed=2)) == ["ngf: 64 -> 8", "seed: 0 -> 2"]
    assert set(FREE_ON_RESUME) <= {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("profile", recipes.PROFILES)
def test_profiles_are_valid_and_override_with_what_differs(profile, model):
    overrides = recipes.PROFILES[profile][model]
    config = Config(**overrides, model=model)
    defaults = json.loads(Config(model=model).to_json())
    assert all(defaults[name] != value for name, value in overrides.items())
    assert config.steps > 0


def test_each_model_has_the_published_defaults():
    def published(model, *names):
        config = Config(model=model)
        return tuple(getattr(config, name) for name in names)

    clip = ("video_length", "every_nth", "video_batch", "learning_rate", "beta_1", "weight_decay")
    assert published("vgan", *clip, "mask_weight") == (32, 1, 64, 2e-4, 0.5, 0.0, 0.1)
    assert published("tgan", *clip, "clip_every") == (16, 2, 32, 5e-5, 0.5, 0.0, 5)
    assert published("mocogan", *clip) == (16, 2, 32, 2e-4, 0.5, 1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "vgan", "image_discriminator": "patch"},
        {"model": "vgan", "category_loss": "supervised"},
        {"model": "tgan", "dim_category": 3},
        {"model": "tgan", "mask_weight": 1.0},
        {"model": "mocogan", "clip_every": 1},
    ],
)
def test_an_option_of_another_model_is_refused(wrong):
    with pytest.raises(ValueError, match=f"does not apply to model={wrong['model']}. Received"):
        Config(**wrong)


# By field: values with which it does nothing, and what it would act with.
IDLE = {
    "num_clips": ({"num_clips": 500, "data_dir": "/clips"}, "no data_dir"),
    "category_to": ({"category_to": "both", "dim_category": 0}, "dim_category"),
    "modulate_from": ({"modulate_from": 16}, "content_modulation"),
    "palette": ({"palette": 8}, "decoder=fine and content_modulation"),
    "image_frames": ({"image_frames": 2, "image_discriminator": "none"}, "image_discriminator"),
    "early_frames": ({"early_frames": True, "image_discriminator": "none"}, "image_discriminator"),
    "category_weight": ({"category_weight": 2.0, "category_loss": "none"}, "category_loss"),
    "conditional_video": (
        {"conditional_video": True, "category_loss": "infogan"},
        "category_loss=supervised or category_loss=auto",
    ),
    "r1_image": ({"r1_image": 1.0, "image_discriminator": "none"}, "image_discriminator"),
    "r1_every": ({"r1_every": 8}, "r1_image or r1_video"),
    "mask_weight": ({"mask_weight": 1.0}, "still_background"),
    "mask_steps": ({"mask_steps": 9, "decoder": "fine", "still_background": True, "mask_weight": 0.0}, "mask_weight"),
    "mask_allowance": ({"mask_allowance": 0.3}, "still_background"),
    "reconstruct_weight": ({"reconstruct_weight": 5.0}, "task=image_to_video"),
    "weight_decay_mode": ({"weight_decay_mode": "decoupled", "weight_decay": 0.0}, "weight_decay"),
    "image_batch": ({"image_batch": 8, "image_discriminator": "none"}, "image_discriminator"),
}


def test_every_field_that_may_do_nothing_is_known_here_and_stands_behind_what_it_acts_with():
    conditions = {field.name: " ".join(field.metadata["acts_with"]) for field in dataclasses.fields(Config)}
    assert {name for name, condition in conditions.items() if condition} == set(IDLE)
    # A value that gives way to its default must have done so before others depend on it.
    before = set()
    for name, condition in conditions.items():
        assert set(IDLE) & set(condition.split()) <= before
        before.add(name)


@pytest.mark.parametrize("name", IDLE)
def test_a_value_that_does_nothing_is_refused_where_it_was_asked_for_and_elsewhere_becomes_the_default(name):
    values, partner = IDLE[name]
    for asked in (None, [name]):
        with pytest.raises(ValueError, match=f"`{name}=.*` does nothing: it acts only with {partner}. Received: "):
            Config(**values, asked=asked)
    rest = {other: value for other, value in values.items() if other != name}
    for found in (Config(**values, asked=()), Config(**values, asked=rest)):
        assert found == Config(**rest) and found.is_idle(name)


@pytest.mark.parametrize(
    "values",
    [
        {"mask_weight": 1.0, "model": "vgan"},  # Which has a mask always.
        {"mask_weight": 1.0, "mask_steps": 9, "still_background": True, "decoder": "fine"},
        {"r1_every": 8, "r1_video": 1.0, "discriminator_norm": "none"},
        {"category_to": "both", "category_weight": 2.0},  # Clips may have labels.
        {"num_clips": 500},
        {"mask_weight": 0.1, "reconstruct_weight": 10},  # The defaults.
    ],
)
def test_a_value_that_does_something_is_kept(values):
    config = Config(**values)
    assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize("preset", ["none", "plain", "authors"])
@pytest.mark.parametrize("profile", recipes.PROFILES)
@pytest.mark.parametrize(
    "ablation",
    [
        {"still_background": False},
        {"content_modulation": False},
        {"image_discriminator": "none"},
        {"category_loss": "none", "dim_category": 0},
        {"data_dir": "/clips"},
        {"mask_weight": 0.0, "decoder": "fine", "still_background": True},
        {"decoder": "dcgan", "still_background": False, "video_size": "full"},
    ],
    ids=str,
)
def test_a_flag_that_leaves_a_profiles_values_idle_needs_no_other_flag(profile, preset, ablation):
    config = recipes.configuration(profile, preset, ablation)
    assert {name: getattr(config, name) for name in ablation} == ablation
    defaults = Config()
    for name in IDLE:
        assert not config.is_idle(name) or getattr(config, name) == getattr(defaults, name)


def test_a_flag_that_does_nothing_is_refused_on_every_profile():
    for profile in recipes.PROFILES:
        with pytest.raises(ValueError, match="mask_weight=0.5.*still_background=False"):
            recipes.configuration(profile, "none", {"still_background": False, "mask_weight": 0.5})


def test_a_run_whose_file_holds_idle_values_is_read_and_goes_on(tmp_path):
    """As an older version wrote it for `--profile=cpu --nostill_background` and clips without labels."""
    new = recipes.configuration("cpu", "none", {"still_background": False})
    of_clips = {"dim_category": 0, "category_loss": "none"}
    idle = {"mask_weight": 0.2, "mask_steps": 1000, "category_to": "both"}
    (tmp_path / "config.json").write_text(json.dumps({**json.loads(new.to_json()), **of_clips, **idle}))
    old = Config.from_json(tmp_path / "config.json")
    assert old == new.resolve_categories(0) and old.category_to == "motion"
    run_directory.check(tmp_path, new, "auto")


@pytest.mark.parametrize("model", MODELS)
def test_a_file_holds_what_the_model_has_and_nothing_else(model, tmp_path):
    config = Config(model=model, ngf=8).resolve_categories(2)
    (tmp_path / "config.json").write_text(config.to_json())
    assert Config.from_json(tmp_path / "config.json") == config
    held = set(json.loads(config.to_json()))
    assert ("dim_content" in held, "mask_weight" in held, "clip_every" in held) == (
        model == "mocogan",
        model != "tgan",
        model == "tgan",
    )


def test_a_file_older_than_an_option_means_its_default(tmp_path):
    values = json.loads(Config(model="vgan").to_json())
    del values["mask_weight"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert Config.from_json(tmp_path / "config.json") == Config(model="vgan")


def test_the_plain_recipe_is_written_out():
    assert set(recipes.PROFILES["cpu"]["mocogan"]) - FREE_ON_RESUME <= set(recipes.PRESETS["plain"])
    config = Config(**{**recipes.PROFILES["cpu"]["mocogan"], **recipes.PRESETS["plain"]})
    assert (config.decoder, config.image_discriminator, config.video_size) == ("dcgan", "patch", "full")
    assert (config.ngf, config.ndf, config.steps, config.r1_video) == (24, 24, 5000, 2.0)


def test_the_authors_recipe_is_written_out_and_does_not_depend_on_the_profile():
    profile, preset = recipes.PROFILES["cpu"]["mocogan"], recipes.PRESETS["authors"]
    assert set(profile) - FREE_ON_RESUME <= set(preset)
    config = Config(**{**profile, **preset})
    assert differences(config, Config(category_to="image", ema_decay=0.0)) == []
