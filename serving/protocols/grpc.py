"""TensorFlow Serving's gRPC, extra `grpc`: `PredictionService` (Predict, GetModelMetadata) and `ModelService`.

The stubs in `tensorflow-serving-api` depend on TensorFlow. So the few messages of these calls are declared here, with
the same names and numbers, in a descriptor pool of their own. The bytes on the wire are the same, so clients work
unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from serving.protocols.latents import check_latents
from serving.protocols.tf_serving import PREDICT, SIGNATURE
from serving.runtime.engine import Floats
from serving.runtime.errors import (
    Cancelled,
    DeadlineExceeded,
    Invalid,
    Malformed,
    NotFound,
    Overloaded,
    ServingError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from serving.runtime.repository import Model
from serving.runtime.service import Service
from serving.web.guard import Keys
from serving.web.server import host_port

Field = descriptor_pb2.FieldDescriptorProto
DT_FLOAT, DT_DOUBLE = 1, 2
STATES = {"AVAILABLE": 30, "END": 50}
UNKNOWN_ERROR = 2
CODES: dict[type[ServingError], grpc.StatusCode] = {
    Malformed: grpc.StatusCode.INVALID_ARGUMENT,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    Cancelled: grpc.StatusCode.CANCELLED,
}

# Fields of each message as (name, number, type). A capital names a message of this table, `*` is repeated, `map:` a map
# from strings.
MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "Dim": [("size", 1, "int64"), ("name", 2, "string")],
    "TensorShapeProto": [("dim", 2, "*Dim"), ("unknown_rank", 3, "bool")],
    "TensorProto": [
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "TensorShapeProto"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "*float"),
        ("double_val", 6, "*double"),
    ],
    "Int64Value": [("value", 1, "int64")],
    "Any": [("type_url", 1, "string"), ("value", 2, "bytes")],
    "ModelSpec": [
        ("name", 1, "string"),
        ("version", 2, "Int64Value"),
        ("signature_name", 3, "string"),
        ("version_label", 4, "string"),
    ],
    "PredictRequest": [
        ("model_spec", 1, "ModelSpec"),
        ("inputs", 2, "map:TensorProto"),
        ("output_filter", 3, "*string"),
    ],
    "PredictResponse": [("outputs", 1, "map:TensorProto"), ("model_spec", 2, "ModelSpec")],
    "TensorInfo": [("name", 1, "string"), ("dtype", 2, "int32"), ("tensor_shape", 3, "TensorShapeProto")],
    "SignatureDef": [("inputs", 1, "map:TensorInfo"), ("outputs", 2, "map:TensorInfo"), ("method_name", 3, "string")],
    "SignatureDefMap": [("signature_def", 1, "map:SignatureDef")],
    "GetModelMetadataRequest": [("model_spec", 1, "ModelSpec"), ("metadata_field", 2, "*string")],
    "GetModelMetadataResponse": [("model_spec", 1, "ModelSpec"), ("metadata", 2, "map:Any")],
    "GetModelStatusRequest": [("model_spec", 1, "ModelSpec")],
    "StatusProto": [("error_code", 1, "int32"), ("error_message", 2, "string")],
    "ModelVersionStatus": [("version", 1, "int64"), ("state", 2, "int32"), ("status", 3, "StatusProto")],
    "GetModelStatusResponse": [("model_version_status", 1, "*ModelVersionStatus")],
}


def _messages() -> dict[str, Any]:
    """Message classes by name, from the table. Enums are int32 here, which is the same on the wire."""
    package = "tensorflow.serving"
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package=package, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name, number=number, label=Field.LABEL_OPTIONAL)
            if kind.startswith("map:"):
                entry_name = "".join(part.capitalize() for part in field_name.split("_")) + "Entry"
                entry = message.nested_type.add(name=entry_name)
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=Field.LABEL_OPTIONAL, type=Field.TYPE_STRING)
                value = entry.field.add(name="value", number=2, label=Field.LABEL_OPTIONAL, type=Field.TYPE_MESSAGE)
                value.type_name = f".{package}.{kind[4:]}"
                field.label, kind = Field.LABEL_REPEATED, f"{name}.{entry_name}"
            elif kind.startswith("*"):
                field.label, kind = Field.LABEL_REPEATED, kind[1:]
            if kind[0].isupper():
                field.type, field.type_name = Field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = Field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in MESSAGES}


PROTO = _messages()


def to_array(tensor: Any, name: str) -> Floats:
    """float32 array of a TensorProto.

    Raises:
        Invalid: It has another type, or its number of values does not fit its shape.
    """
    if tensor.dtype not in (DT_FLOAT, DT_DOUBLE):
        raise Invalid(f"`{name}` must be DT_FLOAT or DT_DOUBLE. Received: dtype {tensor.dtype}")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or len(shape) > 7 or any(not 0 < size < 2**31 for size in shape):
        raise Invalid(f"`{name}` must have a shape of positive sizes.")
    count = 1
    for size in shape:
        count *= size
    dtype = np.dtype("<f4" if tensor.dtype == DT_FLOAT else "<f8")
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise Invalid(f"`{name}` must have {count * dtype.itemsize} bytes. Received: {len(tensor.tensor_content)}")
        values = np.frombuffer(tensor.tensor_content, dtype)
    else:
        given = tensor.float_val if tensor.dtype == DT_FLOAT else tensor.double_val
        # As in TensorFlow one value may stand for all, so a small message may ask for a large array.
        if len(given) not in (1, count) or count > 2**24:
            raise Invalid(f"`{name}` must have {count} values. Received: {len(given)}")
        values = np.broadcast_to(np.array(given, dtype), count) if len(given) == 1 else np.array(given, dtype)
    with np.errstate(over="ignore"):
        floats: Floats = values.astype(np.float32).reshape(shape)
    return floats


def to_proto(array: Floats) -> Any:
    """TensorProto of an array, its values as bytes."""
    shape = PROTO["TensorShapeProto"](dim=[PROTO["Dim"](size=size) for size in array.shape])
    content = np.ascontiguousarray(array, "<f4").tobytes()
    return PROTO["TensorProto"](dtype=DT_FLOAT, tensor_shape=shape, tensor_content=content)


class Servicer:
    """The three calls. `context` is gRPC's."""

    def __init__(self, service: Service, keys: Keys) -> None:
        self.service = service
        self.keys = keys

    def _check_key(self, context: Any) -> None:
        given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        scheme, _, token = given.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else given.get("x-api-key", "")
        if not self.keys.accept(key):
            raise Unauthorized("An API key is needed, as metadata `authorization: Bearer KEY` or `x-api-key: KEY`.")

    @staticmethod
    def _address(spec: Any) -> tuple[str, int | None]:
        if not spec.name:
            raise Invalid("Model name is missing in the ModelSpec.")
        if spec.version_label:
            raise NotFound(f"Unrecognized servable version label: {spec.version_label[:60]}")
        return spec.name, spec.version.value if spec.HasField("version") else None

    @staticmethod
    def _spec(model: Model) -> Any:
        version = PROTO["Int64Value"](value=model.version)
        return PROTO["ModelSpec"](name=model.name, version=version, signature_name=SIGNATURE)

    async def predict(self, request: Any, context: Any) -> Any:
        """PredictionService.Predict: latents to float32 video and motion state."""
        if request.model_spec.signature_name not in ("", SIGNATURE):
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{request.model_spec.signature_name[:60]}" not found.',
            )
        wanted = list(request.output_filter) or ["video", "motion_state"]
        if unknown := [name for name in wanted if name not in ("video", "motion_state")]:
            raise Invalid(f"output tensor alias not found in signature: {unknown[0][:60]}")
        with self.service.repository.lease(*self._address(request.model_spec)) as model:
            latents = await self.service.parse(lambda: self._latents(request, model))
            frames = self.service.limits.check_work(*latents["motion_noise"].shape[:2])
            deadline = self.service.deadline(context.time_remaining())
            with model.batcher.admit(frames, deadline):
                clip = await self.service.render(model, lambda: latents, deadline=deadline, as_pixels=False)
                arrays = {"video": clip.video, "motion_state": clip.motion_state}
                outputs, _ = await self.service.encode_with(lambda: {n: to_proto(arrays[n]) for n in wanted}, "grpc")
            response = PROTO["PredictResponse"](model_spec=self._spec(model))
            for name, tensor in outputs.items():
                response.outputs[name].CopyFrom(tensor)
            return response

    @staticmethod
    def _latents(request: Any, model: Model) -> dict[str, Floats]:
        names = list(model.bundle.latents.shapes(None, None))
        if set(request.inputs) != set(names):
            raise Invalid(
                f"input size does not match signature: {len(request.inputs)}!={len(names)}. Received: "
                f"{', '.join(sorted(request.inputs))[:200]}. Required: {', '.join(names)}."
            )
        latents = {name: to_array(request.inputs[name], name) for name in names}
        check_latents(latents, model)
        return latents

    async def metadata(self, request: Any, context: Any) -> Any:
        """PredictionService.GetModelMetadata: the signature."""
        if list(request.metadata_field) != ["signature_def"]:
            raise Invalid("`metadata_field` must be signature_def.")
        model = self.service.repository.find(*self._address(request.model_spec))
        signature = PROTO["SignatureDef"](method_name=PREDICT)
        for table, shapes in (
            (signature.inputs, model.bundle.latents.shapes(None, None)),
            (signature.outputs, model.bundle.output_shapes(None, None)),
        ):
            for name, shape in shapes.items():
                dims = [PROTO["Dim"](size=-1 if size is None else size) for size in shape]
                info = PROTO["TensorInfo"](name=f"{name}:0", dtype=DT_FLOAT)
                info.tensor_shape.dim.extend(dims)
                table[name].CopyFrom(info)
        signatures = PROTO["SignatureDefMap"]()
        signatures.signature_def[SIGNATURE].CopyFrom(signature)
        response = PROTO["GetModelMetadataResponse"](model_spec=self._spec(model))
        packed = response.metadata["signature_def"]
        packed.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        packed.value = signatures.SerializeToString()
        return response

    async def status(self, request: Any, context: Any) -> Any:
        """ModelService.GetModelStatus."""
        name, version = self._address(request.model_spec)
        response = PROTO["GetModelStatusResponse"]()
        for state in self.service.repository.status(name):
            if version in (None, state.version):
                entry = response.model_version_status.add(version=state.version, state=STATES[state.state])
                entry.status.error_message = state.error
                entry.status.error_code = UNKNOWN_ERROR if state.error else 0
        if not response.model_version_status:
            raise NotFound(f"Could not find version {version} of model {name}")
        return response

    def guarded(self, route: str, call: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """Wraps a call: checks the key, turns errors into gRPC codes, counts."""
        metrics = self.service.metrics

        async def run(request: Any, context: Any) -> Any:
            code = grpc.StatusCode.OK
            try:
                self._check_key(context)
                return await call(request, context)
            except ServingError as error:
                code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
                metrics.rejected.labels(error.error_type).inc()
                internal = code is grpc.StatusCode.INTERNAL
                await context.abort(code, "The server failed on this request." if internal else str(error))
            finally:
                metrics.requests.labels(route, "gRPC", code.name).inc()

        return run


@contextlib.asynccontextmanager
async def grpc_server(
    service: Service,
    keys: Keys,
    host: str,
    port: int,
    grace_seconds: float = 30.0,
    tls: tuple[bytes, bytes] | None = None,
) -> AsyncIterator[str]:
    """Runs the gRPC server on the current event loop; yields its address, `host:port`.

    Args:
        service: What it serves.
        keys: Accepted API keys.
        host, port: Where to listen; port 0 takes a free one.
        grace_seconds: For running calls, at the end.
        tls: Private key and certificate chain, PEM; without them everything travels in clear text.

    Raises:
        Unavailable: It cannot listen there.
    """
    servicer = Servicer(service, keys)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", service.limits.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            # Otherwise the kernel would let two servers share a port.
            ("grpc.so_reuseport", 0),
        ]
    )
    services = {
        "PredictionService": {
            "Predict": (servicer.predict, "PredictRequest"),
            "GetModelMetadata": (servicer.metadata, "GetModelMetadataRequest"),
        },
        "ModelService": {"GetModelStatus": (servicer.status, "GetModelStatusRequest")},
    }
    for name, calls in services.items():
        handlers = {
            call: grpc.unary_unary_rpc_method_handler(
                servicer.guarded(f"{name}/{call}", function),
                request_deserializer=PROTO[message].FromString,
                response_serializer=lambda response: response.SerializeToString(),
            )
            for call, (function, message) in calls.items()
        }
        handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{name}", handlers)
        server.add_generic_rpc_handlers((handler,))
    address = host_port(host, port)
    try:
        if tls:
            port = server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:  # gRPC does not say why.
        why = "The port is in use, or the address not one of this machine"
        why += ", or it cannot read the key or certificate." if tls else "."
        raise Unavailable(f"gRPC cannot listen on {address}. {why}") from error
    await server.start()
    try:
        yield host_port(host, port)
    finally:
        await server.stop(grace_seconds)
