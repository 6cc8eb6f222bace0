"""The table of request fields: what the OpenAPI document allows is what the server reads."""

import pytest

from serving.protocols.fields import CHANGE, GENERATE, GRID, STREAM, Choice, Fields, Integer, Number, Seed, from_query
from serving.runtime.errors import Invalid
from serving.runtime.service import Limits

LIMITS = Limits(max_videos=5, max_frames=7, timeout_seconds=3.0)
FIELDS = {id(field): field for table in (GENERATE, GRID, STREAM, CHANGE) for field in table.values()}.values()


def of(kind):
    return [pytest.param(field, id=field.name) for field in FIELDS if isinstance(field, kind)]


@pytest.mark.parametrize("field", of((Integer, Number)))
def test_documented_bounds_are_the_bounds_that_are_read(field):
    schema = field.schema(LIMITS)
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    for inside in {low if "minimum" in schema else low + 1e-9, low if high is None else high}:
        if inside or "minimum" in schema:
            assert field.read(inside, LIMITS) == inside
    for outside in [low - 1, *([] if high is None or getattr(field, "is_work", False) else [high + 1])]:
        with pytest.raises(Invalid, match=f"`{field.name}` must be"):
            field.read(outside, LIMITS)
    if "exclusiveMinimum" in schema:
        with pytest.raises(Invalid):
            field.read(low, LIMITS)


def test_bounds_of_work_are_the_limits():
    for name, limit in (("num_videos", LIMITS.max_videos), ("num_frames", LIMITS.max_frames)):
        assert GENERATE[name].schema(LIMITS)["maximum"] == limit


@pytest.mark.parametrize("field", of(Seed))
def test_a_seed_of_as_many_digits_as_documented_is_read(field):
    number, text = field.schema(LIMITS)["anyOf"]
    largest = number["maximum"]
    assert field.read(largest, LIMITS) == field.read(str(largest), LIMITS) == 2**64 - 1
    assert text["pattern"] == f"^[0-9]{{1,{len(str(largest))}}}$"
    for outside in (largest + 1, str(largest + 1), "0" * 21, "-1", "1.0", True):
        with pytest.raises(Invalid, match="must be an integer in"):
            field.read(outside, LIMITS)


@pytest.mark.parametrize("field", of(Choice))
def test_documented_words_are_read(field):
    for word in field.schema(LIMITS)["enum"]:
        assert field.read(word, LIMITS) == word


@pytest.mark.parametrize("field", [pytest.param(f, id=f.name) for f in FIELDS if f.default is not None])
def test_documented_defaults_are_used(field):
    assert Fields({}, {field.name: field}).get(field) == field.schema(LIMITS)["default"]
    assert field.read(field.default, LIMITS) == field.default


def test_query_text_becomes_what_json_would_hold():
    expected = {"seed": "7", "num_videos": 2, "fps": 8.0, "num_frames": "x", "unknown": "1"}
    assert from_query(b"seed=7&num_videos=2&fps=8&num_frames=x&unknown=1", GENERATE) == expected
    assert from_query(b"content_seeds=1,2&categories=a", GRID) == {"content_seeds": ["1", "2"], "categories": ["a"]}


def test_a_query_of_thousands_of_parameters_is_not_taken_apart():
    with pytest.raises(Invalid, match="at most 64 parameters"):
        from_query(b"a&" * 30_000, GENERATE)
