"""Finds what must not be in an exported graph: what runs here, but fails or crawls on another runtime."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable
from typing import Any

import onnx
import tensorflow as tf
from onnx import NodeProto, TensorProto
from tensorflow.core.protobuf import saved_model_pb2

from export.contract import Contract, TensorSpec

MAX_OPSET = 18
MAX_IR_VERSION = 8

_CONTROL_FLOW = {"Loop", "If", "Scan"}
_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
# TensorFlow's operations that call Python, which no server has.
_PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


def lint_onnx(
    model: onnx.ModelProto, inputs: list[TensorSpec], outputs: list[TensorSpec], contract: Contract
) -> list[str]:
    """Looks for what could fail in an application.

    Args:
        model: Content of one .onnx file.
        inputs, outputs: The file's inputs and outputs by the contract.
        contract: The bundle's contract.

    Returns:
        One sentence per fault.
    """
    faults = []
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        faults.append(f"the checker refuses it: {str(error).splitlines()[0]}")
    nodes = model.graph.node
    faults += [f"{node.name} is control flow ({node.op_type})" for node in nodes if node.op_type in _CONTROL_FLOW]
    faults += [
        f"{node.name} is a custom operator ({node.domain})" for node in nodes if node.domain not in ("", "ai.onnx")
    ]
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset > MAX_OPSET or model.ir_version > MAX_IR_VERSION:
        faults.append(f"opset {opset}, IR {model.ir_version} is too new (at most {MAX_OPSET}, {MAX_IR_VERSION})")
    faults += _interface_faults("input", model.graph.input, inputs) + _interface_faults(
        "output", model.graph.output, outputs
    )
    faults += _constant_faults(nodes, model.graph.initializer)
    if {entry.key: entry.value for entry in model.metadata_props} != contract.metadata():
        faults.append("its metadata differs from bundle.json")
    return faults


def _interface_faults(kind: str, found: Iterable[onnx.ValueInfoProto], expected: list[TensorSpec]) -> list[str]:
    tensors = [(value.name, value.type.tensor_type) for value in found]
    described = [
        (name, tensor.elem_type, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))
        for name, tensor in tensors
    ]
    wanted = [(spec.name, _TYPES[spec.dtype], spec.shape) for spec in expected]
    return [] if described == wanted else [f"its {kind}s are {described}, not {wanted}"]


def _constant_faults(nodes: Iterable[NodeProto], constants: Iterable[TensorProto]) -> list[str]:
    read = {name for node in nodes for name in node.input}
    faults = []
    for tensor in constants:
        if tensor.name not in read:
            faults.append(f"constant {tensor.name} is not used")
        if tensor.data_location == TensorProto.EXTERNAL:
            faults.append(f"constant {tensor.name} lies outside the file")
    return faults


def lint_saved_model(folder: pathlib.Path, num_weights: int) -> list[str]:
    """Looks for what could keep another machine from serving a SavedModel.

    Args:
        folder: Folder of one version.
        num_weights: Number of the generator's weights.

    Returns:
        One sentence per fault.
    """
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    faults = [] if len(saved.meta_graphs) == 1 else [f"it has {len(saved.meta_graphs)} graphs instead of one"]
    known = tf.raw_ops.__dict__
    for meta_graph in saved.meta_graphs:
        if list(meta_graph.meta_info_def.tags) != ["serve"]:
            faults.append(f"its tags are {list(meta_graph.meta_info_def.tags)}, not ['serve']")
        graph = meta_graph.graph_def
        for node in _tensorflow_nodes(graph):
            if node.device and not re.fullmatch(r"/device:CPU:[0*]", node.device):  # Every server has a CPU.
                faults.append(f"{node.name} is pinned to {node.device}")
            if node.op.lower().startswith("cudnn"):
                faults.append(f"{node.name} needs cuDNN ({node.op})")
            if node.op in _PYTHON:
                faults.append(f"{node.name} calls Python ({node.op})")
            if node.attr["_XlaMustCompile"].b:
                faults.append(f"{node.name} needs XLA, which TensorFlow Serving has switched off")
        functions = {function.signature.name for function in graph.library.function}
        unknown = {node.op for node in _tensorflow_nodes(graph)} - functions - set(known)
        faults += [f"operation {name} is not one of TensorFlow's" for name in sorted(unknown)]
    shapes = tf.train.load_checkpoint(str(folder / "variables/variables")).get_variable_to_shape_map()
    stored = [key for key in shapes if "OBJECT_GRAPH" not in key]
    if len(stored) != num_weights:
        faults.append(f"it stores {len(stored)} weights, the generator has {num_weights}")
    return faults


def _tensorflow_nodes(graph: Any) -> Iterable[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def
