"""Promises of the serving engine on a GPU."""

import numpy as np
import pytest

from benchmarks.bundles import make_bundle, make_contract, make_generator
from mocogan_tf.latents import sample_latents
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine
from serving.runtime.options import EngineOptions

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small generator and its bundle, half floats included."""
    contract = make_contract()
    generator, folder = make_generator(contract, ngf=8), tmp_path_factory.mktemp("export") / "bundle"
    make_bundle(generator, contract, folder)
    return generator, read_bundle(folder)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_clips_are_those_of_the_cpu(provider, precision, cuda_graph, made):
    generator, bundle = made
    import onnxruntime

    if provider == "tensorrt" and "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no TensorRT")
    plain = Engine(bundle, EngineOptions(provider="cpu", precision="float32"))
    engine = Engine(bundle, EngineOptions(provider=provider, precision=precision, cuda_graph=cuda_graph))
    assert (engine.provider, engine.precision) == (provider, precision)
    for number in (1, 3):
        latents = sample_latents(generator.latents, number, 16, seed=number)
        expected, found = (np.asarray(one.generate(latents)[0], np.float32) for one in (plain, engine))
        assert np.abs(expected - found).max() <= (0.02 if precision == "float32" else 0.1)
