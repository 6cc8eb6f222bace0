"""Ray Serve on two simulated nodes of one machine: replicas on both, the same clips, load spread, back-pressure."""

import concurrent.futures
import io

import numpy as np
import pytest

from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8
from tests.support.ports import free_port

ray = pytest.importorskip("ray")
httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    from ray import serve
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes(timeout=240)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def test_two_nodes_serve_the_same_clips(cluster, bundle_dir, engine):
    from ray import serve

    from serving.ray_app import build

    # 0.6 of a CPU each: no node of one CPU has room for two of them.
    options = {"bundle": str(bundle_dir), "num_cpus": "0.6", "min_replicas": 2, "max_replicas": "2"}
    port = free_port()
    serve.start(http_options={"port": port, "host": "127.0.0.1"})
    serve.run(build(options))
    url = f"http://127.0.0.1:{port}/v1/generate?seed=3&format=npy"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: httpx.get(url, timeout=120), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    video, _ = engine.generate(sample_latents(engine.bundle.latents, 1, 16, seed=3))
    for answer in answers:
        assert np.array_equal(np.load(io.BytesIO(answer.content)), to_uint8(video.copy()))
    assert httpx.get(url.replace("seed=3", "seed=-1")).status_code == 422
    replicas = serve.status().applications["default"].deployments["mocogan"].replica_states
    assert {str(state): count for state, count in replicas.items()} == {"RUNNING": 2}
    # Where they run is asked of the machines: a free share of 0.4 on each is what two apart leave.
    assert sorted(node["Resources"]["CPU"] for node in ray.nodes()) == [1.0, 1.0]
    assert ray.available_resources()["CPU"] == pytest.approx(0.8)


def test_options_are_checked():
    from serving.ray_app import build

    for args in ({}, {"bundle": "x", "cpus": 1}, {"bundle": "x", "num_cpus": "many"}):
        with pytest.raises(ValueError):
            build(args)
