"""The rules for graphs find what breaks on other people's runtimes."""

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

from export.contract import TensorSpec
from export.lint import lint_onnx, lint_saved_model
from tests.export.conftest import make_contract

SPEC = [TensorSpec("x", ("batch", 2))], [TensorSpec("y", ("batch", 2))]
CONTRACT = make_contract()


def model(nodes=None, *, opset=17, batch="batch", constants=(), domains=()):
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(
        helper.make_graph(
            nodes or [helper.make_node("Relu", ["x"], ["y"], "relu")],
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
            [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in constants],
        ),
        opset_imports=imports,
        ir_version=8,
    )
    helper.set_model_props(made, CONTRACT.metadata())
    return made


def branch():
    def body(name):
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])
        return helper.make_graph([helper.make_node("Identity", ["x"], [name])], name, [], [output])

    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return [condition, helper.make_node("If", ["c"], ["y"], "if", then_branch=body("a"), else_branch=body("b"))]


def test_a_plain_graph_has_no_fault():
    assert lint_onnx(model(), *SPEC, CONTRACT) == []


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (lambda: model(branch()), "if is control flow"),
        (
            lambda: model(
                [helper.make_node("Gelu", ["x"], ["y"], "gelu", domain="com.microsoft")], domains=["com.microsoft"]
            ),
            "gelu is a custom operator",
        ),
        (lambda: model(opset=20), "opset 20, IR 8 is too new"),
        (lambda: model(batch="unk__7"), "its inputs are"),
        (lambda: model(constants=["left"]), "constant left is not used"),
        (lambda: model([helper.make_node("Relu", ["z"], ["y"])]), "the checker refuses it"),
    ],
    ids=["control flow", "custom operator", "opset", "dimension name", "unused constant", "no input"],
)
def test_each_fault_is_found(made, fault):
    assert any(fault in found for found in lint_onnx(made(), *SPEC, CONTRACT))


def test_metadata_of_another_contract_is_found():
    made = model()
    onnx.helper.set_model_props(made, make_contract(fps=9.0).metadata())
    assert lint_onnx(made, *SPEC, CONTRACT) == ["its metadata differs from bundle.json"]


class Pinned(tf.Module):
    """What a SavedModel must not hold: Python, and a node on one device."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec((), tf.float32)])
    def __call__(self, x):
        with tf.device("GPU:0"):
            y = self.weight * x
        return {"y": tf.py_function(lambda value: value, [y], tf.float32)}


def test_what_only_this_machine_can_serve_is_found(tmp_path):
    module = Pinned()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    faults = "; ".join(lint_saved_model(tmp_path, num_weights=2))
    assert "is pinned to /device:GPU:0" in faults
    assert "calls Python (EagerPyFunc)" in faults
    assert "it stores 1 weights, the generator has 2" in faults


def test_an_exported_saved_model_has_no_fault(exported):
    assert lint_saved_model(exported[0] / "saved_model/1", len(exported[1].weights)) == []
