"""The map over processes: order, errors, and workers that die."""

import os
import pathlib
import subprocess
import sys

import pytest

from mocogan_tf.data.parallel import map_in_processes


def square(x):
    if x == 3:
        raise ValueError("no threes")
    return x * x


def pid(_):
    return os.getpid()


def die_once(arguments):
    number, marker = arguments
    if number == 5 and not pathlib.Path(marker).exists():
        pathlib.Path(marker).touch()
        os._exit(9)
    return number


def die_always(number):
    if number == 5:
        os._exit(9)
    return number


def fail(_):
    raise KeyError("a fault of the program")


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_come_in_order_and_value_errors_are_theirs(workers):
    outcomes = list(map_in_processes(square, range(40), workers=workers))
    assert [outcome.item for outcome in outcomes] == list(range(40))
    assert [outcome.value for outcome in outcomes if not outcome.error] == [x * x for x in range(40) if x != 3]
    assert outcomes[3].error == "no threes"


def test_few_items_start_no_process_and_many_do():
    assert {outcome.value for outcome in map_in_processes(pid, range(15), workers=2)} == {os.getpid()}
    assert os.getpid() not in {outcome.value for outcome in map_in_processes(pid, range(16), workers=2)}


def test_no_items_give_no_outcomes():
    assert list(map_in_processes(square, [], workers=2)) == []


def test_a_worker_that_dies_loses_nothing(tmp_path):
    items = [(number, str(tmp_path / "died")) for number in range(40)]
    outcomes = list(map_in_processes(die_once, items, workers=2))
    assert [outcome.value for outcome in outcomes] == list(range(40))


def test_the_item_that_kills_every_worker_is_the_only_one_left_out():
    outcomes = list(map_in_processes(die_always, range(40), workers=2))
    assert [outcome.item for outcome in outcomes if outcome.error] == [5]
    assert "died twice" in outcomes[5].error
    assert [outcome.value for outcome in outcomes if not outcome.error] == [x for x in range(40) if x != 5]


@pytest.mark.parametrize("workers", [1, 2])
def test_faults_of_the_program_are_not_hidden(workers):
    with pytest.raises(KeyError):
        list(map_in_processes(fail, range(40), workers=workers))


@pytest.mark.parametrize("module", ["sources.readers", "cache", "advice", "parallel", "datasets"])
def test_what_workers_import_does_not_import_tensorflow(module):
    code = f"import mocogan_tf.data.{module}, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
