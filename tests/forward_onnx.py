"""A forward graph as a model of ONNX, so that other programs run it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wsrl.checkpoint import Tensor
from wsrl.extras import require
from wsrl.forward.graph import ForwardGraph

if TYPE_CHECKING:
    import onnx

OPERATORS, FORMAT = 21, 10  # versions: of the set of operators, of the file


def onnx_model(graph: ForwardGraph, tensors: Mapping[str, Tensor]) -> "onnx.ModelProto":
    """Returns the model; those of the tensors that steps read become its weights."""
    onnx = require("onnx", "test")
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    read = {name for step in graph.steps for name in step.inputs}
    weights = {name: np.asarray(array) for name, array in graph.constants.items()}
    weights |= {name: np.ascontiguousarray(np.asarray(tensor)) for name, tensor in tensors.items() if name in read}
    model = helper.make_graph(
        [helper.make_node(step.op, step.inputs, step.outputs, **step.attributes) for step in graph.steps],
        "network",
        [helper.make_tensor_value_info(graph.input, kind, ["batch", *graph.input_shape])],
        [helper.make_tensor_value_info(graph.output, kind, ["batch", "outputs"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", OPERATORS)], ir_version=FORMAT)
