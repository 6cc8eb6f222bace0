"""`benchmarks.recipes`: what is done is not done again, flags do not mix, and the table is of the runs' numbers."""

import dataclasses
import json
import sys

import pytest

from benchmarks import recipes
from mocogan_tf import recipes as known
from mocogan_tf.config import Config


@pytest.fixture
def asked(monkeypatch):
    """The runs that were trained; nothing is really trained."""
    trained = []

    def train(folder, dataset, setting, seed, flags):
        trained.append((dataset, setting, seed, tuple(flags)))

    monkeypatch.setattr(recipes, "train", train)
    monkeypatch.setattr(recipes, "score", lambda folder, dataset, num_videos: {"mcs": 0.25 + int(folder.name) / 2})
    return trained


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["recipes", *arguments])
    recipes.main()


def test_only_what_is_missing_is_trained(tmp_path, asked, monkeypatch, capsys):
    common = [f"--out={tmp_path}", "--datasets", "shapes", "--settings", "as it is", "fast", "--seeds"]
    run(monkeypatch, *common, "0", "--", "--steps=3")
    assert asked == [("shapes", "as it is", 0, ("--steps=3",)), ("shapes", "fast", 0, ("--steps=3",))]
    asked.clear()
    run(monkeypatch, *common, "0", "1", "--", "--steps=3")
    assert [seed for _, _, seed, _ in asked] == [1, 1]
    assert "| as it is | 2 | 0.50 (0.25 to 0.75) |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(monkeypatch, *common, "0", "--", "--steps=4")
    assert "holds runs with the flags --steps=3" in capsys.readouterr().err
    asked.clear()
    run(monkeypatch, *common, "0", "1", "2", "--table")
    assert asked == [] and "| fast | 2 |" in capsys.readouterr().out


def test_the_balance_is_the_mean_over_the_last_quarter(tmp_path):
    lines = [{"loss_d_video": i, "accuracy_d_video": 0.5, "step": i} for i in range(8)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert recipes.balance(tmp_path) == {"loss_d_video": 6.5, "accuracy_d_video": 0.5}


@pytest.mark.parametrize("setting", recipes.SETTINGS)
def test_every_flag_of_a_setting_changes_something(setting):
    changed, flags = Config(**known.PRESETS["plain"]), recipes.SETTINGS[setting]
    # What a setting changes of the fast recipe may be as the preset has it.
    for some in (flags[: len(recipes.FAST)], flags[len(recipes.FAST) :]):
        given = dict(flag.removeprefix("--").partition("=")[::2] for flag in some)
        # A flag without a value switches an option on.
        values = {name: type(getattr(changed, name))(text) if text else True for name, text in given.items()}
        for name, value in values.items():
            assert getattr(changed, name) != value, name
        changed = dataclasses.replace(changed, **values, asked=values)
