"""TensorFlow Serving's gRPC with its own stubs as the client, in an environment that has them (and TensorFlow)."""

import asyncio
import json
import socket
import subprocess
import sys

import numpy as np
import pytest

from mocogan_tf.latents import sample_latents
from serving.web.guard import Keys
from tests.support.ports import free_port
from tests.support.servers import ROOT, make_service, running

grpc = pytest.importorskip("grpc")
pytest.importorskip("tensorflow_serving")


@pytest.fixture(scope="module")
def stubs():
    """Imported here: it takes TensorFlow with it."""
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    class Stubs:
        metadata, status, predict = get_model_metadata_pb2, get_model_status_pb2, predict_pb2
        model_service, prediction_service = model_service_pb2_grpc, prediction_service_pb2_grpc

    return Stubs


def with_server(bundle_dir, talk, keys=()):
    """Runs `talk(channel)` against a server on this loop."""
    from serving.protocols.grpc import grpc_server

    async def run():
        service = make_service(bundle_dir)
        async with grpc_server(service, Keys(keys), "127.0.0.1", 0, 1) as address:
            async with grpc.aio.insecure_channel(address) as channel:
                await asyncio.wait_for(talk(channel), 60)
        service.close()

    asyncio.run(run())


def request_for(stubs, latents, as_content=True, **spec):
    import tensorflow as tf

    request = stubs.predict.PredictRequest()
    request.model_spec.name = spec.get("name", "tiny")
    request.model_spec.signature_name = spec.get("signature", "serving_default")
    for name, value in latents.items():
        proto = tf.make_tensor_proto(value)
        if not as_content:
            proto.float_val.extend(value.reshape(-1).tolist())
            proto.tensor_content = b""
        request.inputs[name].CopyFrom(proto)
    return request


def test_predict_by_the_original_stubs(bundle_dir, engine, stubs):
    import tensorflow as tf

    latents = sample_latents(engine.bundle.latents, 2, 5, seed=3)
    video, state = engine.generate(latents)

    async def talk(channel):
        stub = stubs.prediction_service.PredictionServiceStub(channel)
        for as_content in (True, False):
            answer = await stub.Predict(request_for(stubs, latents, as_content))
            np.testing.assert_allclose(tf.make_ndarray(answer.outputs["video"]), video, atol=1e-6)
            np.testing.assert_allclose(tf.make_ndarray(answer.outputs["motion_state"]), state, atol=1e-6)
            assert (answer.model_spec.name, answer.model_spec.version.value) == ("tiny", 1)
        only = request_for(stubs, latents)
        only.output_filter.append("motion_state")
        assert set((await stub.Predict(only)).outputs) == {"motion_state"}

    with_server(bundle_dir, talk)


def test_errors_are_grpc_codes(bundle_dir, engine, stubs):
    latents = sample_latents(engine.bundle.latents, 1, 2, seed=3)
    code = grpc.StatusCode

    async def talk(channel):
        stub = stubs.prediction_service.PredictionServiceStub(channel)

        async def refused(request, expected, **options):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.Predict(request, **options)
            assert error.value.code() is expected, error.value.details()

        await refused(request_for(stubs, latents, name="none"), code.NOT_FOUND)
        await refused(request_for(stubs, latents, signature="x"), code.FAILED_PRECONDITION)
        await refused(request_for(stubs, {"content": latents["content"]}), code.INVALID_ARGUMENT)
        await refused(request_for(stubs, latents | {"content": np.zeros((1, 9), "f")}), code.INVALID_ARGUMENT)
        await refused(request_for(stubs, latents | {"content": np.full((1, 6), np.nan, "f")}), code.INVALID_ARGUMENT)
        await refused(request_for(stubs, latents | {"content": np.zeros((1, 6), np.int32)}), code.INVALID_ARGUMENT)
        huge = request_for(stubs, latents)
        huge.inputs["motion_noise"].tensor_shape.dim[1].size = 2**30
        await refused(huge, code.INVALID_ARGUMENT)
        await refused(request_for(stubs, latents), code.DEADLINE_EXCEEDED, timeout=1e-4)
        assert await stub.Predict(request_for(stubs, latents))

    with_server(bundle_dir, talk)


def test_metadata_and_status(bundle_dir, stubs):
    async def talk(channel):
        stub = stubs.prediction_service.PredictionServiceStub(channel)
        request = stubs.metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "tiny"
        answer = await stub.GetModelMetadata(request)
        signatures = stubs.metadata.SignatureDefMap()
        assert answer.metadata["signature_def"].Unpack(signatures)
        signature = signatures.signature_def["serving_default"]
        assert signature.method_name == "tensorflow/serving/predict"
        assert [dim.size for dim in signature.outputs["video"].tensor_shape.dim] == [-1, -1, 16, 16, 3]
        status = stubs.status.GetModelStatusRequest()
        status.model_spec.name = "tiny"
        models = stubs.model_service.ModelServiceStub(channel)
        (entry,) = (await models.GetModelStatus(status)).model_version_status
        assert (entry.version, entry.state) == (1, stubs.status.ModelVersionStatus.AVAILABLE)

    with_server(bundle_dir, talk)


def test_keys(bundle_dir, stubs):
    async def talk(channel):
        models = stubs.model_service.ModelServiceStub(channel)
        request = stubs.status.GetModelStatusRequest()
        request.model_spec.name = "tiny"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await models.GetModelStatus(request)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for metadata in ((("authorization", "Bearer 0123456789abcdef"),), (("x-api-key", "0123456789abcdef"),)):
            assert await models.GetModelStatus(request, metadata=metadata)

    with_server(bundle_dir, talk, keys=(b"0123456789abcdef",))


def status_over(channel, stubs, key=None):
    request = stubs.status.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    metadata = (("x-api-key", key),) if key else ()
    call = stubs.model_service.ModelServiceStub(channel).GetModelStatus
    return call(request, metadata=metadata, timeout=20).model_version_status[0].version


def test_beside_http_it_listens_where_the_log_says_and_drains(bundle_dir, stubs):
    with running(f"--bundle={bundle_dir}", f"--grpc_port={free_port()}", "--drain_delay=0") as process:
        (ready,) = [line for line in process.log() if line["message"] == "ready"]
        with grpc.insecure_channel(ready["grpc"]) as channel:
            assert status_over(channel, stubs) == 1
        assert process.stop() == 0


def test_with_a_certificate_nothing_is_in_clear_text(bundle_dir, stubs, certificate, tmp_path):
    (tmp_path / "keys").write_text("0123456789abcdef")
    flags = [f"--bundle={bundle_dir}", f"--grpc_port={free_port()}", "--drain_delay=0"]
    tls = [f"--tls_cert={certificate.cert}", f"--tls_key={certificate.key}", f"--api_key_file={tmp_path / 'keys'}"]
    with running(*flags, *tls) as process:
        (ready,) = [line for line in process.log() if line["message"] == "ready"]
        assert ready["url"].startswith("https://")
        root = grpc.ssl_channel_credentials(certificate.cert.read_bytes())
        with grpc.secure_channel(ready["grpc"], root) as channel:
            assert status_over(channel, stubs, "0123456789abcdef") == 1
        with grpc.insecure_channel(ready["grpc"]) as channel, pytest.raises(grpc.RpcError):
            status_over(channel, stubs, "0123456789abcdef")
        assert all(line.startswith("{") for line in process.lines)


def test_a_port_in_use_is_one_line_and_the_exit_code_that_http_has(bundle_dir):
    with socket.socket() as taken:
        # By default the kernel would let another server share it.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run = [sys.executable, "-m", "serving", f"--bundle={bundle_dir}", "--threads=1", "--log_format=json"]
        for flags in (["--port=0", f"--grpc_port={taken.getsockname()[1]}"], [f"--port={taken.getsockname()[1]}"]):
            result = subprocess.run([*run, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60)
            lines = [json.loads(line) for line in result.stderr.splitlines()]
            (error,) = [line["message"] for line in lines if line["level"] == "error"]
            assert result.returncode == 3 and "in use" in error and str(taken.getsockname()[1]) in error
            assert "\n" not in error
