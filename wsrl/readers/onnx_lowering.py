"""Turns operators of ONNX on integers into those on real numbers, and dequantizes the constants that they read."""

from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import LazyTensor
from wsrl.readers.derived import transposed
from wsrl.readers.onnx_blocks import BLOCK_OPERATORS
from wsrl.readers.onnx_constants import INDICES, Constant, Constants
from wsrl.readers.onnx_quantized import OPERATORS, Input, Operator
from wsrl.readers.onnx_scope import Factors, Scope

CONCAT = "QLinearConcat"  # its inputs come in threes, behind the factors of its output
LOWERED = (*OPERATORS, *BLOCK_OPERATORS, CONCAT)


def lower(node: dict, constants: Constants, scope: Scope) -> list[dict] | None:
    """Returns the nodes on real numbers that an integer operator stands for; None if its inputs are not as they should.

    Args:
      node: of one of the operators LOWERED, its inputs after their aliases.
      constants: where its weights are entered dequantized.
      scope: what is known of its values; of a product whose scale later nodes multiply, this is noted there.

    Raises:
      CheckpointError: scales do not fit what they scale.
    """
    inputs, outputs, attributes = node["inputs"], node["outputs"], node["attributes"]
    if node["op"] == CONCAT:
        constants.add_factors(inputs, [place for place in range(len(inputs)) if place % 3 != 2])
        return [{**node, "op": "Concat", "domain": "", "inputs": inputs[2::3]}]
    if node["op"] in BLOCK_OPERATORS:
        op, place, factors, build = BLOCK_OPERATORS[node["op"]]
        read = {i: constants.input(inputs, i) for i in (place, *factors)}
        try:
            tensor = build(read, attributes, constants.path)
        except (ValueError, IndexError):
            tensor = None
        if tensor is None:
            return None
        constants.add_factors(inputs, factors)
        source = constants.values[inputs[place]]
        step = ("scale", node["op"], *(inputs[i] for i in factors if i < len(inputs)), tensor.shape)
        inputs = [name for i, name in enumerate(inputs) if i not in factors]
        inputs[place] = constants.new(source, step, tensor, f"{outputs[0]}:weight")
        bias = inputs.pop() if op == "MatMul" and len(inputs) == 3 else ""
        return _with_bias({**node, "op": op, "domain": "", "inputs": inputs}, bias)
    operator = OPERATORS[node["op"]]
    constants.add_factors(inputs, [p for i in operator.inputs for p in (i.scale, i.zero) if p is not None])
    after = scope.factors_after(outputs[0]) if operator.inputs[0].scale is None else None
    read = [_real_input(node, operator, part, after, constants) for part in operator.inputs]
    while read and not read[-1]:
        read.pop()
    if node["op"] in ("MatMulInteger", "ConvInteger"):
        scope.roles[outputs[0]] = "unscaled"
    bias = inputs[operator.bias] if operator.bias is not None and operator.bias < len(inputs) else ""
    return _with_bias({**node, "op": operator.op, "domain": "", "inputs": read}, bias)


def _with_bias(node: dict, bias: str) -> list[dict]:
    if not bias:
        return [node]
    product = f"{node['outputs'][0]}:product"
    add = {**node, "op": "Add", "domain": "", "inputs": [product, bias], "attributes": {}}
    return [{**node, "outputs": [product]}, add]


def _real_input(node: dict, operator: Operator, part: Input, after: Factors | None, constants: Constants) -> str:
    """The name of an input on real numbers; "" where it is not given."""
    inputs = node["inputs"]
    name = inputs[part.place] if part.place < len(inputs) else ""
    constant = constants.values.get(name)
    if constant is None or constant.is_real or constant.tensor.dtype in ("int64", "bool"):
        return name
    zero = constants.input(inputs, part.zero)
    axis = part.axis
    if operator.op == "Gemm" and part.place == 3 and node["attributes"].get("transB"):
        axis = 0
    if part.scales:
        scales = [constants.input(inputs, place) for place in part.scales]
        scale = None
        if all(s is not None for s in scales):
            arrays = [np.asarray(s.tensor).reshape(-1) for s in scales if s is not None]
            scale = _number(constants.path, "*".join(s.base for s in scales if s), prod(arrays[1:], start=arrays[0]))
    elif part.scale is not None:
        scale = constants.input(inputs, part.scale)
    else:
        scale = after.scale if after else None
    if constant.tensor.dtype in INDICES and scale is None:
        return name
    if scale is None:
        size = constant.tensor.size
        constants.warnings.append(f"tensor {name!r} ({size:,} parameters), read by {node['op']}, has no scale")
    result = constants.scaled(constant, scale, zero, axis, 0)
    if part.order and len(part.order) == result.tensor.ndim:
        step = ("Transpose", part.order)
        result = constants.derived(result, step, lambda: transposed(result.tensor, part.order))
    value = f"{node['outputs'][0]}:{part.place}"
    constants.values[value] = result
    return value


def _number(path: Path, name: str, value: np.ndarray) -> Constant:
    return Constant(name, LazyTensor.of(value, path, name))
