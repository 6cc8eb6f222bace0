"""Promises of the draw from a seed: it is a contract with every other language."""

import pathlib
import re

import numpy as np
import pytest

from mocogan_tf.latents import (
    STREAM_CONTENT,
    CodeSpec,
    LatentSpec,
    choose_contents,
    philox4x32,
    sample_latents,
    slerp,
)

pytestmark = pytest.mark.core
SPEC = LatentSpec(dim_content=50, dim_motion=10, dim_category=4)
FROZEN_CODES = {
    "standard_normal": [0.6526873707771301, 1.1415103673934937, 0.9642333388328552, -1.3885915279388428],
    "uniform": [-0.157495379447937, -0.6653324961662292, 0.2115810364484787, 0.6525783538818359],
}


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, key, words):
    assert philox4x32(np.array(counter, np.uint32), key).tolist() == words


def test_the_seeds_of_the_page_draw_what_stands_there():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "bundle.md").read_text()
    rows = re.findall(r"^\| (\d[\d^ +-]*) \| `([0-9a-f ]+)` \| (.+) \| (.+) \| (.+) \| (\d) \|$", page, re.MULTILINE)
    assert len(rows) == 4
    spec = LatentSpec(dim_content=50, dim_motion=10, dim_category=5)
    for written, block, *begins, category in rows:
        power, offset = re.fullmatch(r"(?:2\^(\d+))? ?((?:[+-] )?\d*)", written).groups()
        seed = (2 ** int(power) if power else 0) + int(offset.replace(" ", "") or 0)
        words = philox4x32(np.array([0, 0, STREAM_CONTENT, 0], np.uint32), (seed & 0xFFFFFFFF, seed >> 32))
        assert [f"{word:08x}" for word in words] == block.split()
        drawn = sample_latents(spec, 1, 1, seed=seed)
        for name, numbers in zip(("content", "motion_init", "motion_noise"), begins, strict=True):
            expected = [float(number) for number in numbers.split()]
            np.testing.assert_allclose(drawn[name].reshape(-1)[: len(expected)], expected, atol=1e-6)
        assert drawn["category"].argmax() == int(category)


def test_normals_follow_the_written_rule():
    # Content of clip 1 of seed 2^32 + 7, number 5, by the text of the rule: block 1, pair 0, the sine.
    words = philox4x32(np.array([1, 0, 0, 1], np.uint32), (7, 1)).astype(np.float64)
    u, v = (words[0] + 0.5) / 2**32, (words[1] + 0.5) / 2**32
    expected = np.float32(np.sqrt(-2 * np.log(u)) * np.sin(2 * np.pi * v))
    assert sample_latents(SPEC, 2, 4, seed=2**32 + 7)["content"][1, 5] == expected


def test_clip_i_does_not_depend_on_how_many_are_asked_for():
    many, one = sample_latents(SPEC, 5, 16, seed=3), sample_latents(SPEC, 1, 16, seed=3, first_clip=4)
    for name in many:
        np.testing.assert_array_equal(many[name][4:], one[name])


def test_a_longer_clip_begins_with_the_shorter_one_and_can_be_continued():
    long = sample_latents(SPEC, 2, 40, seed=3)["motion_noise"]
    np.testing.assert_array_equal(long[:, :16], sample_latents(SPEC, 2, 16, seed=3)["motion_noise"])
    for first in (1, 13, 16):  # Blocks hold four numbers; these starts lie on and between their borders.
        rest = sample_latents(SPEC, 2, 40 - first, seed=3, first_frame=first)["motion_noise"]
        np.testing.assert_array_equal(long[:, first:], rest)


def test_content_and_motion_have_seeds_of_their_own():
    base = sample_latents(SPEC, 2, 16, seed=1)
    other_motion = sample_latents(SPEC, 2, 16, seed=1, motion_seed=2)
    other_content = sample_latents(SPEC, 2, 16, seed=1, content_seed=2)
    np.testing.assert_array_equal(base["content"], other_motion["content"])
    np.testing.assert_array_equal(base["motion_noise"], other_content["motion_noise"])
    assert not np.array_equal(base["motion_init"], other_motion["motion_init"])
    assert not np.array_equal(base["content"], other_content["content"])


def test_draws_are_standard_normal_and_categories_even():
    latents = sample_latents(SPEC, 4000, 4, seed=11)
    for name in ("content", "motion_init", "motion_noise"):
        values = latents[name].astype(np.float64)
        assert abs(values.mean()) < 4 / np.sqrt(values.size)
        assert abs((values**2).mean() - 1) < 4 * np.sqrt(2 / values.size)
    assert np.all(latents["category"].sum(axis=1) == 1)
    assert np.all(np.abs(latents["category"].mean(axis=0) - 0.25) < 0.03)


def test_a_category_can_be_asked_for_and_is_absent_without_categories():
    assert sample_latents(SPEC, 3, 4, seed=0, category=2)["category"].argmax(axis=1).tolist() == [2, 2, 2]
    assert "category" not in sample_latents(LatentSpec(), 3, 4, seed=0)


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"seed": 2**64}, {"seed": 1.5}, {"seed": "x"}, {"seed": 0, "category": 4}]
)
def test_what_is_out_of_range_is_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        sample_latents(SPEC, 1, 4, **arguments)


def test_the_draw_is_frozen():
    # Recorded from this module once it had passed the tests above. A change here breaks every bundle and client.
    latents = sample_latents(SPEC, 3, 20, seed=12345)
    np.testing.assert_allclose(
        latents["content"][2, :4],
        [0.9733980298042297, 0.8801198601722717, -1.3950601816177368, 0.3663581609725952],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        latents["motion_noise"][1, 19, :4],
        [0.9480359554290771, 0.07630801945924759, 0.2324070781469345, -0.5551692247390747],
        rtol=1e-6,
    )
    assert latents["category"].argmax(axis=1).tolist() == [3, 0, 3]


def test_a_single_code_follows_the_written_rule():
    # Number 6 of clip 1 of seed 3: stream 4, block 1, its third word, or the cosine of its second pair.
    words = philox4x32(np.array([1, 0, 4, 1], np.uint32), (3, 0)).astype(np.float64)
    uniform = sample_latents(CodeSpec(16, distribution="uniform"), 2, 16, seed=3)["z"]
    assert uniform.shape == (2, 100) and uniform[1, 6] == np.float32(2 * (words[2] + 0.5) / 2**32 - 1)
    u, v = (words[2:] + 0.5) / 2**32
    normal = sample_latents(CodeSpec(16), 2, 16, seed=3)["z"]
    assert normal[1, 6] == np.float32(np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v))


def test_single_codes_have_their_distributions():
    uniform = sample_latents(CodeSpec(16, distribution="uniform"), 4000, 16, seed=5)["z"]
    assert -1 < uniform.min() < -0.999 and 0.999 < uniform.max() < 1
    assert abs(uniform.mean()) < 0.005 and uniform.var() == pytest.approx(1 / 3, rel=0.02)
    normal = sample_latents(CodeSpec(16), 4000, 16, seed=5)["z"]
    assert abs(normal.mean()) < 0.01 and normal.var() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    "asked", [{"content_seed": 1}, {"motion_seed": 1}, {"category": 0}, {"first_frame": 1}, {"num_frames": 32}]
)
def test_what_a_single_code_cannot_say_is_refused(asked):
    with pytest.raises(ValueError, match="one code for the whole clip|clips of 16 frames only"):
        sample_latents(CodeSpec(16), 1, **{"num_frames": 16, "seed": 0, **asked})


def test_the_draw_of_a_single_code_is_frozen():
    # Recorded from this module once it had passed the tests above.
    for distribution, recorded in FROZEN_CODES.items():
        z = sample_latents(CodeSpec(16, distribution=distribution), 3, 16, seed=12345)["z"]
        np.testing.assert_allclose(z[2, [0, 1, 2, 99]], recorded, rtol=1e-6)


def test_slerp_keeps_the_norm_and_ends_at_both_ends():
    start, end = np.float32([3.0, 0.0, 0.0]), np.float32([0.0, 3.0, 0.0])
    np.testing.assert_allclose(slerp(start, end, 0.0), start, atol=1e-6)
    np.testing.assert_allclose(slerp(start, end, 1.0), end, atol=1e-6)
    path = slerp(start, end, np.linspace(0, 1, 5)[:, None])
    assert path.shape == (5, 3) and path.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 3.0, rtol=1e-6)
    np.testing.assert_allclose(path[1], 3 * np.array([np.cos(np.pi / 8), np.sin(np.pi / 8), 0]), rtol=1e-6)


@pytest.mark.parametrize("end", [[4.0, 0.0], [-2.0, 0.0]])
def test_slerp_takes_the_straight_line_where_there_is_no_circle(end):
    np.testing.assert_allclose(slerp(np.float32([2.0, 0.0]), np.float32(end), 0.5), [(2 + end[0]) / 2, 0], atol=1e-6)


PICTURES = LatentSpec(dim_content=7, dim_motion=3, dim_category=2, content_from="pictures")


def test_a_seed_chooses_a_content_by_the_first_word_of_its_stream():
    contents = np.arange(5 * 7, dtype=np.float32).reshape(5, 7)
    drawn = sample_latents(PICTURES, 20, 4, seed=3, content_seed=2**40 + 9, contents=contents)
    key = (9, 2**8)
    counters = np.array([[0, 0, STREAM_CONTENT, clip] for clip in range(20)], np.uint32)
    expected = philox4x32(counters, key)[:, 0] % 5
    np.testing.assert_array_equal(drawn["content"], contents[expected])
    assert len(set(expected.tolist())) == 5
    np.testing.assert_array_equal(choose_contents(2**40 + 9, 3, 5, first_clip=17), expected[17:])
    later = sample_latents(PICTURES, 3, 4, seed=3, content_seed=2**40 + 9, contents=contents, first_clip=17)
    np.testing.assert_array_equal(later["content"], drawn["content"][17:])


def test_all_but_the_content_of_pictures_is_drawn_as_ever():
    noise = LatentSpec(dim_content=7, dim_motion=3, dim_category=2)
    drawn = sample_latents(PICTURES, 4, 6, seed=11, contents=np.zeros((2, 7), np.float32))
    for name, value in sample_latents(noise, 4, 6, seed=11).items():
        assert np.array_equal(drawn[name], value) == (name != "content")
    assert PICTURES.distributions == {**noise.distributions, "content": "encoded"}


@pytest.mark.parametrize(
    ("spec", "contents", "words"),
    [
        (PICTURES, None, "give `contents`"),
        (PICTURES, np.zeros((2, 6), np.float32), r"float32 \[N, 7\]. Received: float32 \[2, 6\]"),
        (PICTURES, np.zeros((0, 7), np.float32), r"float32 \[N, 7\]. Received"),
        (PICTURES, np.zeros((2, 7)), "Received: float64"),
        (LatentSpec(), np.zeros((2, 50), np.float32), "leave `contents` out"),
        (CodeSpec(num_frames=4), np.zeros((2, 100), np.float32), "leave `contents` out"),
    ],
)
def test_contents_that_are_missing_too_much_or_of_another_size_are_one_line(spec, contents, words):
    with pytest.raises(ValueError, match=words) as error:
        sample_latents(spec, 1, 4, seed=0, contents=contents)
    assert "\n" not in str(error.value)
