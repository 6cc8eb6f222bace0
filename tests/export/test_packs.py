"""The packs for TensorFlow Serving, Triton and KServe agree with the contract and with their own formats."""

import re

import numpy as np
import pytest
from google.protobuf import text_format

from export.contract import BATCH_SIZES, FILES
from export.packs import (
    batching_parameters,
    inference_service,
    kubernetes,
    models_config,
    tf_serving_compose,
    triton_compose,
    triton_config,
)
from export.saved_model import read_warmup, signatures
from tests.export.conftest import make_contract

yaml = pytest.importorskip("yaml")


def test_models_config_is_what_tensorflow_serving_parses():
    config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    parsed = text_format.Parse(models_config(make_contract()), config_pb2.ModelServerConfig())
    (config,) = parsed.model_config_list.config
    assert (config.name, config.base_path) == ("mocogan-test", "/models/mocogan-test")
    assert config.model_platform == "tensorflow"
    assert config.model_version_policy.latest.num_versions == 1


def test_batching_ends_at_the_largest_allowed_size():
    text = batching_parameters()
    allowed = [int(size) for size in re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.M)]
    assert allowed == sorted(allowed) == list(BATCH_SIZES)
    assert f"max_batch_size {{ value: {allowed[-1]} }}" in text  # TensorFlow Serving refuses anything else.


def test_warmup_covers_every_signature_at_every_allowed_batch_size(exported):
    folder, _, contract, _ = exported
    sizes = {}
    for name, inputs in read_warmup(folder / "saved_model/1"):
        expected = signatures(contract)[name].inputs
        assert {key: value.dtype for key, value in inputs.items()} == {
            key: np.dtype(spec.dtype) for key, spec in expected.items()
        }
        sizes.setdefault(name, set()).update(len(value) for value in inputs.values())
    assert sizes == {name: set(BATCH_SIZES) for name in signatures(contract)}


def test_the_compose_file_mounts_what_the_configuration_names():
    services = yaml.safe_load(tf_serving_compose(make_contract()))["services"]
    assert set(services) == {"cpu", "gpu"}
    for service in services.values():
        assert f"../{FILES['saved_model']}:/models/mocogan-test:ro" in service["volumes"]
        assert "--model_config_file=/config/models.config" in service["command"]
    assert services["gpu"]["image"].endswith("-gpu")


@pytest.mark.parametrize("gpu", [False, True])
def test_the_kubernetes_manifest_waits_for_the_model_and_drains(gpu):
    contract = make_contract(name="mocogan_test.v2")
    config, deployment, service = yaml.safe_load_all(kubernetes(contract, gpu))
    names = {item["metadata"]["name"] for item in (config, deployment, service)}
    assert names == {"mocogan-test-v2"}  # A DNS label.
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == "/v1/models/mocogan_test.v2"
    assert container["readinessProbe"]["httpGet"]["path"].startswith("/v1/models/mocogan_test.v2")
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "15"]
    assert ("nvidia.com/gpu" in container["resources"].get("limits", {})) == gpu
    assert container["resources"]["limits"]["memory"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert deployment["spec"]["template"]["spec"]["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert container["image"].endswith("-gpu") == gpu
    assert config["data"]["models.config"].strip() == models_config(contract).strip()
    assert config["data"]["batching_parameters.txt"].strip() == batching_parameters().strip()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize("changes", [{}, {"dim_category": 0}, {"channels": 1}])
def test_triton_s_tensors_are_the_contract_s_without_the_batch(changes):
    contract = make_contract(**changes)
    text = triton_config(contract)
    found = dict(re.findall(r'^  \{ name: "(\w+)" data_type: TYPE_FP32 dims: \[ ([-\d, ]+) \] \}', text, re.M))
    expected = {**contract.inputs, **contract.outputs}
    assert found == {
        name: ", ".join("-1" if size == "time" else str(size) for size in spec.shape[1:])
        for name, spec in expected.items()
    }
    assert len(re.findall(r'name: "\d+_frames_batch_\d+"', text)) == 2 * len(contract.frame_buckets)
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")


def test_triton_parses_its_configuration():
    config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    contract = make_contract()
    parsed = text_format.Parse(triton_config(contract), config_pb2.ModelConfig())
    assert [item.name for item in parsed.input] == list(contract.inputs)
    assert parsed.model_warmup[0].inputs["motion_noise"].dims == [contract.frame_buckets[0], contract.dim_motion]


def test_triton_and_kserve_find_the_model():
    contract = make_contract(version=3)
    (service,) = yaml.safe_load(triton_compose(contract))["services"].values()
    assert "../model.onnx:/models/mocogan-test/3/model.onnx:ro" in service["volumes"]
    described = yaml.safe_load(inference_service(contract))
    assert described["kind"] == "InferenceService"
    assert described["spec"]["predictor"]["model"]["modelFormat"] == {"name": "onnx"}
