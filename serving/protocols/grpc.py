"""TensorFlow Serving's gRPC, extra `grpc`: `PredictionService` (Predict, GetModelMetadata) and `ModelService`.

The stubs in `tensorflow-serving-api` depend on TensorFlow. So the few messages of these calls are declared here, with
the same names and numbers, in a descriptor pool of their own. The bytes on the wire are the same, so clients work
unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from mocogan_tf.latents import LatentSpec
from serving.protocols.latents import MAX_DIMS, check_latents
from serving.protocols.tf_serving import PREDICT, SIGNATURE
from serving.runtime.errors import (
    OUT_OF_MEMORY,
    Cancelled,
    DeadlineExceeded,
    Invalid,
    Malformed,
    NotFound,
    Overloaded,
    ServingError,
    Timeout,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from serving.runtime.options import Floats
from serving.runtime.repository import Model
from serving.runtime.service import Limits, Service
from serving.web.guard import Keys, key_of
from serving.web.server import host_port

Field = descriptor_pb2.FieldDescriptorProto
Call = Callable[[Any, Any], Awaitable[Any]]
Behavior = Callable[[AsyncIterator[bytes], Any], Awaitable[Any]]
DT_FLOAT, DT_DOUBLE = 1, 2
# A message and those in it have no more. The official clients pack a tensor's values into one field.
MAX_FIELDS = 2**14
# By wire type.
FIXED_BYTES = {1: 8, 5: 4}
# There are no more calls at one time, since each may hold a message.
MAX_CALLS = 128
# Fewer than the descriptors that HTTP leaves to everything else.
MAX_CONNECTIONS = 96
# A connection gets no more calls after that; its last ones get `--timeout` and as many seconds again to be taken.
CONNECTION_SECONDS = 120.0
STATES = {"AVAILABLE": 30, "END": 50}
UNKNOWN_ERROR = 2
log = logging.getLogger("serving.access")


class NoSuchSignature(Invalid):
    """The model has no signature of this name."""


CODES: dict[type[ServingError], grpc.StatusCode] = {
    Malformed: grpc.StatusCode.INVALID_ARGUMENT,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    NoSuchSignature: grpc.StatusCode.FAILED_PRECONDITION,
    TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Timeout: grpc.StatusCode.DEADLINE_EXCEEDED,
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


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number that begins there, and where the next thing begins. Raises IndexError at the end."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError


def _count_fields(name: str, data: bytes, left: int) -> int:
    """Counts the fields of a message and of those in it, since a message of two bytes takes forty when parsed.

    Args:
        name: The message's, as in `MESSAGES`; `map:NAME` is an entry of a map of such messages.
        data: The message.
        left: How many fields it may have.

    Returns:
        How many may follow.

    Raises:
        TooLarge: It has more.
        ValueError, IndexError: It is cut off or malformed.
    """
    entry = name.startswith("map:")
    fields = [("key", 1, "string"), ("value", 2, name[4:])] if entry else MESSAGES[name]
    inner = {
        number: kind.removeprefix("*") for _, number, kind in fields if kind.lstrip("*")[0].isupper() or ":" in kind
    }
    at = 0
    while at < len(data):
        left -= 1
        if left < 0:
            raise TooLarge(f"A message has at most {MAX_FIELDS} fields.")
        tag, at = _varint(data, at)
        if tag & 7 == 2:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise ValueError
            if tag >> 3 in inner:
                left = _count_fields(inner[tag >> 3], data[at : at + length], left)
            at += length
        elif tag & 7 == 0:
            _, at = _varint(data, at)
        elif tag & 7 in FIXED_BYTES:
            at += FIXED_BYTES[tag & 7]
        else:
            raise ValueError
    return left


def parse_message(name: str, data: bytes) -> Any:
    """Returns a message out of its bytes.

    Raises:
        Malformed: They are no such message.
        TooLarge: It has more fields than any request needs.
    """
    try:
        _count_fields(name, data, MAX_FIELDS)
        return PROTO[name].FromString(data)
    except (DecodeError, ValueError, IndexError):
        raise Malformed(f"The message is no {name}.") from None


def _shape(tensor: Any, name: str) -> list[int]:
    """Returns a TensorProto's shape, checked but not compared with its values. Raises Invalid."""
    if tensor.dtype not in (DT_FLOAT, DT_DOUBLE):
        raise Invalid(f"`{name}` must be DT_FLOAT or DT_DOUBLE. Received: dtype {tensor.dtype}")
    shape = [dim.size for dim in tensor.tensor_shape.dim[: MAX_DIMS + 1]]
    if tensor.tensor_shape.unknown_rank or len(shape) > MAX_DIMS or any(not 0 < size < 2**31 for size in shape):
        raise Invalid(f"`{name}` must have a shape of positive sizes.")
    return shape


def to_arrays(tensors: Mapping[str, Any], spec: LatentSpec, limits: Limits) -> dict[str, Floats]:
    """float32 arrays of TensorProtos, one per input of a model. Nothing is allocated before all shapes fit.

    Raises:
        Invalid: A tensor has another type or shape than the model's input, or its number of values is not its shape's.
        TooLarge: More clips or frames than a request may ask for.
    """
    shapes = {name: _shape(tensor, name) for name, tensor in tensors.items()}
    noise = shapes["motion_noise"]
    if len(noise) == 2 and noise[1] % spec.dim_motion == 0:  # Flat rows, as `check_latents` takes them.
        noise = [noise[0], noise[1] // spec.dim_motion, spec.dim_motion]
    if len(noise) != 3:
        raise Invalid(f"`motion_noise` must have shape [-1, -1, {spec.dim_motion}]. Received: shape {noise}")
    limits.check_work(*noise[:2])
    for name, expected in spec.shapes(*noise[:2]).items():
        if (noise if name == "motion_noise" else shapes[name]) != list(expected):
            raise Invalid(f"`{name}` must have shape {list(expected)}. Received: shape {shapes[name]}")
    return {name: _values(tensors[name], name, math.prod(shape)).reshape(shape) for name, shape in shapes.items()}


def _values(tensor: Any, name: str, count: int) -> Floats:
    dtype = np.dtype("<f4" if tensor.dtype == DT_FLOAT else "<f8")
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise Invalid(f"`{name}` must have {count * dtype.itemsize} bytes. Received: {len(tensor.tensor_content)}")
        values = np.frombuffer(tensor.tensor_content, dtype)
    else:
        given = tensor.float_val if tensor.dtype == DT_FLOAT else tensor.double_val
        # As in TensorFlow one value may stand for all.
        if len(given) not in (1, count):
            raise Invalid(f"`{name}` must have {count} values. Received: {len(given)}")
        values = np.broadcast_to(np.array(given, dtype), count)
    with np.errstate(over="ignore"):
        floats: Floats = values.astype(np.float32)
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
        # Of answers that gRPC still has. HTTP's are counted apart, so that neither protocol shuts out the other.
        self.unsent_bytes = 0

    def _check_key(self, context: Any) -> None:
        given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        if not self.keys.accept(key_of(given)):
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

    def _check_room(self) -> None:
        """Raises Overloaded if the queue is full or too many answers were not taken."""
        self.service.check_room()
        if self.unsent_bytes > self.service.limits.max_unsent_bytes:
            raise Overloaded("Too many answers were not taken yet. Try again later.", retry_after=5)

    def _count_until_taken(self, answer: bytes, context: Any) -> bytes:
        size = len(answer)
        self.unsent_bytes += size

        def taken(_: Any) -> None:
            self.unsent_bytes -= size

        context.add_done_callback(taken)
        return answer

    async def predict(self, request: Any, context: Any) -> bytes:
        """PredictionService.Predict: latents to float32 video and motion state, serialised."""
        if request.model_spec.signature_name not in ("", SIGNATURE):
            raise NoSuchSignature(f'Serving signature key "{request.model_spec.signature_name[:60]}" not found.')
        wanted = list(dict.fromkeys(request.output_filter)) or ["video", "motion_state"]
        if unknown := [name for name in wanted if name not in ("video", "motion_state")]:
            raise Invalid(f"output tensor alias not found in signature: {unknown[0][:60]}")
        with self.service.repository.lease(*self._address(request.model_spec)) as model:
            latents = await self.service.parse(lambda: self._latents(request, model))
            frames = self.service.limits.check_work(*latents["motion_noise"].shape[:2])
            deadline = self.service.deadline(context.time_remaining())
            values = frames * math.prod(model.bundle.frame_shape)
            with self.service.admit(model, frames, deadline, "grpc", values) as work:
                clip = await self.service.render(model, lambda: latents, deadline=deadline, as_pixels=False)
                arrays = {"video": clip.video, "motion_state": clip.motion_state}

                def to_bytes() -> bytes:
                    response = PROTO["PredictResponse"](model_spec=self._spec(model))
                    for name in wanted:
                        response.outputs[name].CopyFrom(to_proto(arrays[name]))
                    answer: bytes = response.SerializeToString()
                    return answer

                answer, _ = await self.service.encode(to_bytes, work)
                return self._count_until_taken(answer, context)

    def _latents(self, request: Any, model: Model) -> dict[str, Floats]:
        names = list(model.bundle.latents.shapes(None, None))
        if set(request.inputs) != set(names):
            raise Invalid(
                f"input size does not match signature: {len(request.inputs)}!={len(names)}. Received: "
                f"{', '.join(sorted(request.inputs))[:200]}. Required: {', '.join(names)}."
            )
        latents = to_arrays({name: request.inputs[name] for name in names}, model.bundle.latents, self.service.limits)
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

    def guarded(self, route: str, message: str, call: Call) -> Behavior:
        """Wraps a call: checks the key and the queue, receives the message, turns errors into gRPC codes, counts, logs.

        Args:
            route: For metrics and log.
            message: Name of the request's message.
            call: Gets the request and gRPC's context, and returns the response or its bytes.
        """
        metrics = self.service.metrics

        async def run(messages: AsyncIterator[bytes], context: Any) -> Any:
            begin, code, refusal = time.perf_counter(), grpc.StatusCode.CANCELLED, None
            metrics.in_flight.inc()
            try:
                answer = await self._attempt(call, message, messages, context)
                refusal = answer if isinstance(answer, ServingError) else None
                code = CODES.get(type(refusal), grpc.StatusCode.INTERNAL) if refusal else grpc.StatusCode.OK
            finally:
                metrics.in_flight.dec()
                seconds = time.perf_counter() - begin
                metrics.requests.labels(route, "gRPC", code.name).inc()
                metrics.request_seconds.labels(route).observe(seconds)
                fields = {"method": "gRPC", "path": route, "status": code.name, "ms": round(seconds * 1e3, 2)}
                if refusal:
                    metrics.rejected.labels(refusal.error_type).inc()
                    fields |= {"error_type": refusal.error_type, "error": str(refusal)[:300]}
                log.info("request", extra=fields)
            if refusal:
                internal = code is grpc.StatusCode.INTERNAL
                await context.abort(code, "The server failed on this request." if internal else str(refusal))
            return answer

        return run

    async def _attempt(self, call: Call, message: str, messages: AsyncIterator[bytes], context: Any) -> Any:
        """Returns a call's response, or the error that stands for it."""
        try:
            self._check_key(context)
            if call == self.predict:
                self._check_room()
            return await call(await self._receive(messages, message), context)
        except ServingError as error:
            return error.with_traceback(None)  # Which would keep the request.
        except MemoryError:
            return Unavailable(OUT_OF_MEMORY)
        except Exception:
            logging.getLogger("serving.app").exception("a call failed")
            return ServingError("internal")

    async def _receive(self, messages: AsyncIterator[bytes], name: str) -> Any:
        """Receives a call's message and parses it off the event loop."""
        seconds = self.service.limits.body_seconds
        try:
            async with asyncio.timeout(seconds):
                data = await anext(messages)
        except TimeoutError:
            raise Timeout(f"The message did not come within {seconds:g} s.") from None
        except StopAsyncIteration:
            raise Malformed("The call has no message.") from None
        with self.service.intake.hold() as held:
            held.add(len(data))
            return await self.service.parse_body(lambda: parse_message(name, data))


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
        maximum_concurrent_rpcs=MAX_CALLS,
        options=[
            ("grpc.max_receive_message_length", service.limits.max_body_bytes),
            ("grpc.max_concurrent_streams", MAX_CALLS),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
            # Clients open another one by themselves; of one that never reads, everything is dropped in the end.
            ("grpc.max_connection_age_ms", int(1e3 * CONNECTION_SECONDS)),
            ("grpc.max_connection_age_grace_ms", int(1e3 * (service.limits.timeout_seconds + CONNECTION_SECONDS))),
            # Otherwise the kernel would let two servers share a port.
            ("grpc.so_reuseport", 0),
        ],
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
            # Like a stream, though clients send one message: so the key is checked before any is received.
            call: grpc.stream_unary_rpc_method_handler(
                servicer.guarded(f"{name}/{call}", message, function),
                response_serializer=lambda answer: answer if isinstance(answer, bytes) else answer.SerializeToString(),
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
