"""What a person gets from the two commands: a proven bundle, or one line that says why not."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from export import __main__ as commands
from export import source
from export.contract import read_contract
from export.model_card import model_card
from export.source import open_run
from mocogan_tf.training import checkpoints
from tests.export.conftest import CATEGORIES

ROOT = pathlib.Path(__file__).parent.parent.parent


def command(*arguments, before=""):
    """Runs `python -m export` in a process of its own, after some code."""
    program = f"{before}\nimport runpy, sys\nsys.argv = ['export', *{list(map(str, arguments))!r}]\n"
    program += "runpy.run_module('export', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def module(name, *arguments, **options):
    """Runs a module in a process of its own."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **{"cwd": ROOT, **options})


def one_error_line(run):
    """The command's only complaint; fails if it printed a traceback or ended well."""
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture
def copy(run_dir, tmp_path):
    """A copy of the run to damage."""
    return shutil.copytree(run_dir, tmp_path / "run")


@pytest.mark.slow
def test_a_run_becomes_a_bundle_that_verifies(run_dir, tmp_path):
    out = tmp_path / "bundle"
    run = command(f"--run_dir={run_dir}", f"--out={out}", "--frame_buckets=4,6", "--name=mine")
    assert run.returncode == 0, run.stderr
    assert "mine version 1, step 0" in run.stdout.splitlines()[-1]
    contract, described = read_contract(out)
    assert contract.frame_buckets == (4, 6)
    assert described["provenance"]["config"]["ngf"] == 4
    assert commands.main_verify(["verify", str(out)]) == 0


@pytest.mark.slow
def test_a_disk_that_fills_leaves_nothing(run_dir, tmp_path):
    # A limit on the size of files fails a write as a full disk does, first in TensorFlow's writer.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    run = command(f"--run_dir={run_dir}", f"--out={tmp_path / 'bundle'}", before=limit)
    one_error_line(run)
    assert not any(tmp_path.iterdir())


def test_an_expected_error_is_one_line(tmp_path):
    run = command(f"--run_dir={tmp_path / 'none'}", f"--out={tmp_path / 'bundle'}")
    assert f"{tmp_path / 'none'} is no run: it has no config.json" in one_error_line(run)
    assert not any(tmp_path.iterdir())


def test_the_contract_follows_from_the_run(run_dir):
    opened = open_run(run_dir, "latest", version=7)
    contract = opened.contract
    assert (contract.name, contract.version) == ("mocogan-shapes", 7)
    assert contract.categories == CATEGORIES
    assert (contract.fps, contract.video_length, contract.frame_buckets) == (8.0, 4, (4, 8))
    assert opened.provenance["step"] == 0
    assert len(opened.provenance["checkpoint_sha256"]) == 64
    json.dumps(opened.provenance)


def test_the_bundle_says_how_it_was_trained_and_scored(copy):
    scored = {"metric": "mcs", "std_error": 0.1, "num_videos": 64, "seed": 0, "checkpoint_step": 0}
    lines = [{**scored, "value": 0.5}, {**scored, "value": 0.75}, {**scored, "value": 0.9, "checkpoint_step": 50}]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"metric": "cut o')
    opened = open_run(copy, "latest")
    assert opened.provenance["scores"] == {"mcs": {"value": 0.75, "std_error": 0.1, "num_videos": 64, "seed": 0}}
    assert "--dim_content=6" in opened.provenance["command"]
    card = model_card(opened.contract, opened.provenance, "")
    assert "| mcs | 0.75 ± 0.1 | 64 | 0 |" in card and f"\n{opened.provenance['command']}\n" in card


def test_seconds_of_training_end_with_the_checkpoint(tmp_path):
    log = [
        {"step": 4, "seconds_per_step": 2.0},
        {"step": 10, "seconds_per_step": 0.5},
        {"step": 20, "seconds_per_step": 9.0},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    assert source.training_seconds(tmp_path, 10) == 4 * 2.0 + 6 * 0.5
    assert source.training_seconds(tmp_path / "none", 10) == 0


def test_categories_found_without_labels_have_no_names(copy):
    (copy / "data.json").write_text(json.dumps({"name": "My Clips!", "categories": ["a"], "num_clips": 3, "fps": 5}))
    contract = open_run(copy, "latest").contract
    assert (contract.dim_category, contract.categories) == (3, ())
    assert contract.name == "mocogan-my-clips"


def test_a_run_without_checkpoints_is_refused(copy):
    shutil.rmtree(copy / checkpoints.FOLDER)
    with pytest.raises(ValueError, match="has no checkpoints"):
        open_run(copy, "latest")


def test_a_damaged_checkpoint_is_refused(copy):
    weights, _ = checkpoints.paths(copy, 0)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be restored: its checksum is wrong"):
        open_run(copy, "latest")


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_a_run_that_does_not_know_its_clips_is_refused(copy, text):
    (copy / "data.json").unlink() if text is None else (copy / "data.json").write_text(text)
    with pytest.raises(ValueError, match="Cannot read .*data.json"):
        open_run(copy, "latest")


@pytest.mark.parametrize("given", [["16", "x"], [""], ["-4"], ["0"]])
def test_unusable_lengths_are_refused(run_dir, given):
    with pytest.raises(ValueError, match="frame_buckets"):
        open_run(run_dir, "latest", frame_buckets=given)


def test_an_unknown_checkpoint_is_refused(run_dir):
    with pytest.raises(ValueError, match="No checkpoint '99'"):
        open_run(run_dir, "99")


@pytest.mark.parametrize("name", commands.PACKAGES)
def test_a_missing_package_is_named_with_its_cure(monkeypatch, name):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda x: None if x == name else find_spec(x))
    with pytest.raises(ValueError, match=re.escape(f"pip install '{commands.PACKAGES[name]}'")):
        commands.main_verify(["verify", "bundle"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "export.verify BUNDLE"), (["a", "b"], "unexpected argument 'b'"), (["nowhere"], "is no bundle")],
)
def test_verify_says_in_one_line_what_it_cannot_do(arguments, message):
    run = module("export.verify", *arguments)
    assert message in one_error_line(run)
    assert run.stdout == ""


@pytest.mark.parametrize(("name", "shown"), [("export", "--run_dir"), ("export.verify", "export.verify BUNDLE")])
def test_help_from_another_folder_ends_well(tmp_path, name, shown):
    run = module(name, "--help", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0 and shown in run.stdout and run.stderr == ""


def test_the_installed_command_is_the_same(tmp_path):
    # What a console script of setuptools does.
    program = "import sys; from export.__main__ import run; sys.exit(run())"
    arguments = [f"--run_dir={tmp_path / 'none'}", f"--out={tmp_path / 'bundle'}"]
    installed = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert one_error_line(installed) == one_error_line(module("export", *arguments))


def test_verify_ends_with_1_and_names_the_flipped_byte(exported, tmp_path, capsys):
    bundle = shutil.copytree(exported[0], tmp_path / "copy")
    path = bundle / "saved_model/1/saved_model.pb"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert commands.main_verify(["verify", str(bundle)]) == 1
    assert "saved_model/1/saved_model.pb differs from its checksum" in capsys.readouterr().out
