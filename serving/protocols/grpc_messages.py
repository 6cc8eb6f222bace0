"""The messages of TensorFlow Serving's gRPC: declared, counted before they are parsed, and their tensors as arrays.

The stubs in `tensorflow-serving-api` depend on TensorFlow. So the few messages that are needed are declared here, with
the same names and numbers, in a descriptor pool of their own. The bytes on the wire are the same, so clients work
unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from mocogan_tf.latents import LatentSpec
from serving.protocols.latents import MAX_DIMS
from serving.runtime.engine import Floats
from serving.runtime.errors import Invalid, Malformed, TooLarge
from serving.runtime.service import Limits

Field = descriptor_pb2.FieldDescriptorProto
DT_FLOAT, DT_DOUBLE = 1, 2
# A message and those in it have no more. The official clients pack a tensor's values into one field.
MAX_FIELDS = 2**14
# By wire type.
FIXED_BYTES = {1: 8, 5: 4}

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
