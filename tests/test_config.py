"""Promises of the configuration and the profiles."""

import dataclasses
import json
import subprocess
import sys

import pytest

from mocogan_tf import recipes
from mocogan_tf.config import FREE_ON_RESUME, MODELS, Config, differences

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
        ("paper", {"model": "mocogan", **recipes.TASK_VALUES["image_to_video"], "reconstruct_weight": 5.0}),
    ],
)
def test_the_command_of_a_configuration_gives_it_again(profile, changes):
    config = Config(**{**recipes.PROFILES[profile][changes["model"]], **changes})
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
        {"modulate_from": 12},
        {"modulate_from": 64, "image_size": 32},
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
    assert set(recipes.PROFILES["cpu"]["mocogan"]) - {"evaluate_every"} <= set(recipes.PRESETS["plain"])
    config = Config(**{**recipes.PROFILES["cpu"]["mocogan"], **recipes.PRESETS["plain"]})
    assert (config.decoder, config.image_discriminator, config.video_size) == ("dcgan", "patch", "full")
    assert (config.ngf, config.ndf, config.steps, config.r1_video) == (24, 24, 5000, 2.0)


def test_the_authors_recipe_is_written_out_and_does_not_depend_on_the_profile():
    profile, preset = recipes.PROFILES["cpu"]["mocogan"], recipes.PRESETS["authors"]
    assert set(profile) - {"num_clips", "evaluate_every"} <= set(preset)
    config = Config(**{**profile, **preset})
    assert dataclasses.replace(config, num_clips=4000, evaluate_every=1000) == Config(
        category_to="image", ema_decay=0.0
    )
