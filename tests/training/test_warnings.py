"""Promises of the watch: warnings in words, scores at checkpoints."""

import json

import pytest

from mocogan_tf.gans.base import ACCURACY_D_VIDEO, LOSS_D_VIDEO
from mocogan_tf.training import evaluation, warnings

HEALTHY = {"diversity": 20.0, "diversity_real": 25.0, "motion": 2.0, "motion_real": 2.5}


class Board:
    """What `Evaluations` needs of a `TensorBoardLog`."""

    def __init__(self):
        self.written = {}

    def write_scalars(self, scalars, step):
        self.written[step] = scalars


class Model:
    """What the callbacks need of a model."""

    sampler = "the averaged generator"
    steps_per_execution = 1


def test_a_discriminator_that_won_or_is_blind_is_named_with_what_to_do():
    assert "image discriminator has won" in warnings.balance_warning("image", "r1_image", 0.001, 1.0)
    assert "--r1_image" in warnings.balance_warning("image", "r1_image", 0.001, 1.0)
    assert "tells nothing apart" in warnings.balance_warning("video", "r1_video", 1.386, 0.5)
    assert warnings.balance_warning("video", "r1_video", 0.6, 0.9) is None
    assert warnings.balance_warning("video", "r1_video", 0.001, 0.9) is None


@pytest.mark.parametrize(
    "change, subject",
    [({"diversity": 5.0}, "mode collapse"), ({"motion": 0.1}, "motion collapse"), ({"motion": 20.0}, "flicker")],
)
def test_each_collapse_is_named(change, subject):
    (text,) = warnings.collapse_warnings({**HEALTHY, **change})
    assert text.startswith(subject)


def test_healthy_clips_are_left_alone():
    assert warnings.collapse_warnings(HEALTHY) == []


def test_balance_is_judged_by_a_mean_over_many_steps_and_said_once(tmp_path):
    balance = warnings.BalanceWatch(tmp_path, 0)
    balance.set_model(Model)

    def train(steps, loss, accuracy):
        for _ in range(steps):
            balance.on_train_batch_end(0, {LOSS_D_VIDEO: loss, ACCURACY_D_VIDEO: accuracy})

    train(warnings.WINDOW - 1, 0.0, 1.0)
    train(1, 100.0, 1.0)  # One step is enough to lift the mean.
    assert not (tmp_path / "warnings.log").exists()
    train(2 * warnings.WINDOW, 0.0, 1.0)
    (line,) = (tmp_path / "warnings.log").read_text().splitlines()
    assert line.startswith(f"step {2 * warnings.WINDOW}: the video discriminator has won")


def test_the_window_is_counted_in_steps_however_many_a_call_makes(tmp_path):
    balance = warnings.BalanceWatch(tmp_path, 0)
    balance.set_model(type("Model", (), {"steps_per_execution": 10}))
    for _ in range(warnings.WINDOW // 10):
        balance.on_train_batch_end(0, {LOSS_D_VIDEO: 0.0, ACCURACY_D_VIDEO: 1.0})
    assert (tmp_path / "warnings.log").read_text().startswith(f"step {warnings.WINDOW}: ")


def test_scores_are_taken_when_due_and_written_everywhere(tmp_path):
    (tmp_path / "evaluations.jsonl").write_text(
        '{"step": 1000, "frechet_video": 3}\n{"step": 2000, "frechet_video": 1}\n'
    )
    board, asked = Board(), []

    def monitor(generator):
        asked.append(generator)
        return {"frechet_video": 2.5, **HEALTHY, "diversity": 1.0}

    evaluations = evaluation.Evaluations(
        tmp_path, 1500, every=1000, make_monitor=lambda: monitor, best_metric="frechet_video", tensorboard=board
    )
    assert evaluations(Model, 1800) == {}
    assert evaluations(Model, 2100)["frechet_video"] == 2.5
    assert evaluations(Model, 2900) == {}
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [(line["step"], line["frechet_video"]) for line in lines] == [(1000, 3), (2100, 2.5)]
    assert board.written[2100]["metrics/frechet_video"] == 2.5
    assert asked == [Model.sampler]
    assert "mode collapse" in (tmp_path / "warnings.log").read_text()


def test_clips_that_cannot_be_scored_are_told_once_and_stop_nothing(tmp_path, caplog):
    def refuse():
        raise ValueError("there are 8 clips, and 128 are needed")

    evaluations = evaluation.Evaluations(
        tmp_path, 0, every=10, make_monitor=refuse, best_metric="frechet_video", tensorboard=Board()
    )
    with caplog.at_level("WARNING"):
        assert evaluations(Model, 10) == {} and evaluations(Model, 20) == {}
    assert caplog.text.count("Checkpoints are not scored") == 1 and "128 are needed" in caplog.text


def test_a_best_metric_that_is_not_among_the_scores_is_told(tmp_path, caplog):
    evaluations = evaluation.Evaluations(
        tmp_path, 0, every=10, make_monitor=lambda: lambda generator: HEALTHY, best_metric="mcs", tensorboard=Board()
    )
    with caplog.at_level("WARNING"):
        evaluations(Model, 10)
    assert "no best checkpoint: mcs is none of diversity" in caplog.text
