"""`benchmarks.scaling`: what it fits, and that a step's operations grow as the networks' sizes say."""

import pytest

pytest.importorskip("torch")

from benchmarks import scaling

TINY = {"ngf": 4, "image_size": 32, "video_length": 4, "video_batch": 2}


def test_growth_is_the_power():
    assert scaling.growth([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert scaling.growth([2, 4, 8], [5, 5, 5]) == pytest.approx(0)


def test_points_are_grouped_by_size_and_take_turns():
    asked = []

    def measure(sizes, steps):
        asked.append(sizes["ngf"])
        number, turn = sizes["ngf"], len(asked)
        return {"seconds": [number, number + turn], "flops": number**2, "memory": 10 * turn}

    result = scaling.vary("ngf", [2, 4], rounds=2, steps=2, base=TINY, measure=measure)
    assert asked == [2, 4, 2, 4]
    small, large = result["points"]
    assert (small["ngf"], small["min_s"], small["max_s"], small["memory"]) == (2, 2, 5, 30)
    assert (large["ngf"], large["min_s"], large["max_s"], large["memory"]) == (4, 4, 8, 40)
    assert result["growth"]["flops"] == pytest.approx(2)


@pytest.mark.slow
def test_a_steps_operations_are_proportional_to_the_batch():
    small = scaling.point(TINY, steps=1)
    large = scaling.point({**TINY, "video_batch": 4}, steps=1)
    assert large["flops"] == pytest.approx(2 * small["flops"], rel=0.01)
    assert small["flops"] > 0 and len(small["seconds"]) == 1
