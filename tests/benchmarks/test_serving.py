"""`benchmarks.serving`: both servers answer the engine's clips, and its report is consistent."""

import io
import urllib.request

import numpy as np
import pytest

from benchmarks import serving
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine
from serving.runtime.options import EngineOptions
from tests.support.made_bundles import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.mark.slow
def test_the_report_compares_servers_that_answer_the_same_clips(bundle):
    plain = ["-c", f"from benchmarks.serving import plain_server; plain_server({str(bundle)!r}, 'cpu')"]
    expected = serving.clip_of(Engine(read_bundle(bundle), EngineOptions("cpu")), 5)
    with (
        serving.our_server(bundle, "cpu") as (_, ours),
        serving.running(plain, "stdout", r"(http://\S+)") as (_, theirs),
    ):
        for url in (ours, theirs):
            with urllib.request.urlopen(f"{url}/v1/generate?seed=5&format=npy") as answer:
                np.testing.assert_array_equal(np.load(io.BytesIO(answer.read())), expected)
    report = serving.run(bundle, seconds=0.5, rounds=1, requests=100)
    medians = {name: result["median_s"] for name, result in report["results"].items()}
    assert report["ratio"] == medians["plain server"] / medians["ours"]
    assert report["share_of_engine"] == medians["engine alone"] / medians["ours"]
    assert report["loads"].keys() >= {"ours", "plain server", "0.5 of capacity", "saturated, webp"}
    assert len(report["rss_megabytes"]) == 10 and min(report["rss_megabytes"]) > 1
