"""The table of wrong changes cannot rot: each applies to the code as it is, and its tests are there."""

import ast
import pathlib

import pytest

from tests.mutation import ROOT, changed
from tests.mutations import TABLE


@pytest.mark.parametrize("change", TABLE, ids=lambda change: change.name)
def test_a_wrong_change_applies_to_the_code_as_it_is(change):
    text = changed(change)
    assert text != (ROOT / change.file).read_text()
    ast.parse(text)
    for test in change.tests:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (pathlib.Path(ROOT) / path).read_text() if name else (ROOT / path).is_file()


def test_no_two_changes_have_one_name():
    assert len({change.name for change in TABLE}) == len(TABLE)
