"""Ray Serve on two simulated nodes of one machine: replicas on both, the same clips, load spread, back-pressure."""

import concurrent.futures
import io

import numpy as np
import pytest

from serving.engine import to_pixels
from serving.latents import sample_latents

ray = pytest.importorskip("ray")
httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    from ray import serve

    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def test_two_nodes_serve_the_same_clips(cluster, bundle_dir, engine):
    from ray import serve

    from serving.ray_app import build

    options = {"bundle": str(bundle_dir), "num_cpus": "0.6", "min_replicas": 2, "max_replicas": "2"}
    serve.start(http_options={"port": 0, "host": "127.0.0.1"}, proxy_location="HeadOnly")
    serve.run(build(options))
    details = serve.status().proxies
    assert details
    from ray.serve._private.api import get_controller_name  # noqa: F401  Only to fail loudly if Serve did not start.

    url = "http://127.0.0.1:8000"
    video, _ = engine.generate(sample_latents(engine.bundle.latents, 1, 16, seed=3))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.get(f"{url}/v1/generate?seed=3&format=npy", timeout=60), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        assert np.array_equal(np.load(io.BytesIO(answer.content)), to_pixels(video.copy()))
    nodes = {
        actor.node_id
        for actor in ray.util.state.list_actors(filters=[("state", "=", "ALIVE")])
        if "mocogan" in actor.name
    }
    assert len(nodes) == 2


def test_options_are_checked():
    from serving.ray_app import build

    for args in ({}, {"bundle": "x", "cpus": 1}, {"bundle": "x", "num_cpus": "many"}):
        with pytest.raises(ValueError):
            build(args)
