"""TensorFlow Serving's gRPC, extra `grpc`: `PredictionService` (Predict, GetModelMetadata) and `ModelService`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from serving.protocols.grpc_messages import DT_FLOAT, PROTO, parse_message, to_arrays, to_proto
from serving.protocols.latents import check_latents
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
from serving.runtime.service import Service
from serving.web.guard import Keys, key_of
from serving.web.server import host_port

Call = Callable[[Any, Any], Awaitable[Any]]
Behavior = Callable[[AsyncIterator[bytes], Any], Awaitable[Any]]
# There are no more calls at one time, since each may hold a message.
MAX_CALLS = 128
# Fewer than the descriptors that HTTP leaves to everything else.
MAX_CONNECTIONS = 96
# Until a connection has said that it speaks HTTP/2, TLS included; and without a call.
HANDSHAKE_SECONDS, IDLE_SECONDS = 10.0, 75.0
# A connection is asked for a sign of life so often, and closed without one: a client that reads nothing sends none.
PING_SECONDS, PONG_SECONDS = 30.0, 20.0
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
                try:
                    await context.abort(code, "The server failed on this request." if internal else str(refusal))
                except grpc.aio.AbortError:
                    raise
                except Exception:  # The call is over, as after a message that unpacks to too much: nobody listens.
                    raise asyncio.CancelledError from None
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
            ("grpc.server_handshake_timeout_ms", int(1e3 * HANDSHAKE_SECONDS)),
            ("grpc.max_connection_idle_ms", int(1e3 * IDLE_SECONDS)),
            ("grpc.keepalive_time_ms", int(1e3 * PING_SECONDS)),
            ("grpc.keepalive_timeout_ms", int(1e3 * PONG_SECONDS)),
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
