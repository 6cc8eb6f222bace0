"""Floating-point operations of a traced function: convolutions and matrix products; a multiply-add counts as two."""

import math

# Per operation: where to find the shape of the kernel, and that of the result or of its gradient.
_CONVOLUTIONS = {
    "Conv2D": ("input", "output"),
    "Conv3D": ("input", "output"),
    "Conv2DBackpropInput": ("input", "gradient"),
    "Conv3DBackpropInputV2": ("input", "gradient"),
    "Conv2DBackpropFilter": ("output", "gradient"),
    "Conv3DBackpropFilterV2": ("output", "gradient"),
}


def count(graph):
    """Counts the operations that one call runs. Gradients that nobody uses are in the graph but do not run.

    Args:
        graph: `FuncGraph` whose shapes are known. Loops and calls of other functions are left out; in the
            networks here that is the GRU, less than a thousandth.
    """
    needed, todo = set(), [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    while todo:
        operation = todo.pop()
        if operation not in needed:
            needed.add(operation)
            todo += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    return sum(_of(operation) for operation in needed)


def _of(operation):
    if operation.type == "MatMul":
        inner = operation.inputs[0].shape[0 if operation.get_attr("transpose_a") else 1]
        return 2 * math.prod(operation.outputs[0].shape) * inner
    if operation.type not in _CONVOLUTIONS:
        return 0
    kernel_from, result_from = _CONVOLUTIONS[operation.type]
    kernel = operation.inputs[1] if kernel_from == "input" else operation.outputs[0]
    result = operation.outputs[0] if result_from == "output" else operation.inputs[2]
    # Each number of the result is a sum over the kernel's window and its input channels.
    return 2 * math.prod(result.shape) * math.prod(kernel.shape[:-1])
