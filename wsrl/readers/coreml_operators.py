"""The operators of Core ML's ML programs as those of ONNX and TFLite that do the same.

The operators: https://apple.github.io/coremltools/docs-guides, "MIL Ops".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAMES = {
    **{"relu": "Relu", "relu6": "RELU6", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu": "Gelu", "silu": "Swish"},
    **{"leaky_relu": "LeakyRelu", "elu": "Elu", "prelu": "PRelu", "softmax": "Softmax", "softplus": "Softplus"},
    **{"exp": "Exp", "log": "Log", "sqrt": "Sqrt", "rsqrt": "RSQRT", "square": "SQUARE", "abs": "Abs", "erf": "Erf"},
    **{"clip": "Clip", "cast": "Cast", "identity": "Identity", "sin": "Sin", "cos": "Cos", "inverse": "Reciprocal"},
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "real_div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min"},
    **{"max_pool": "MaxPool", "avg_pool": "AveragePool", "pad": "Pad", "concat": "Concat", "reshape": "Reshape"},
    **{"upsample_nearest_neighbor": "Resize", "upsample_bilinear": "Resize", "resize_bilinear": "Resize"},
    **{"reduce_mean": "ReduceMean", "reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"},
    **{"squeeze": "Squeeze", "expand_dims": "Unsqueeze", "transpose": "Transpose", "gather": "Gather"},
    **{"conv": "Conv", "conv_transpose": "ConvTranspose", "linear": "FULLY_CONNECTED", "matmul": "MatMul"},
    **{"batch_norm": "BatchNormalization", "layer_norm": "LayerNormalization"},
}
INPUTS = {  # in the order in which ONNX reads them; of others x and y, or x alone
    **dict.fromkeys(("conv", "conv_transpose", "linear"), ("x", "weight", "bias")),
    **{"batch_norm": ("x", "gamma", "beta", "mean", "variance"), "layer_norm": ("x", "gamma", "beta")},
    **{"gather": ("x", "indices"), "prelu": ("x", "alpha"), "concat": ("values",), "reshape": ("x", "shape")},
    **{"squeeze": ("x", "axes"), "expand_dims": ("x", "axes")},
    **{name: ("x", "axes") for name in NAMES if name.startswith("reduce_")},
    **{
        name: ("x",) for name in ("clip", "cast", "pad", "max_pool", "avg_pool", "leaky_relu", "elu", "gelu", "softmax")
    },
    **{name: ("x",) for name in NAMES if name.startswith(("upsample_", "resize_"))},
}
PLAIN = ("x", "y")
AUTO = {"same": "SAME_UPPER", "same_lower": "SAME_LOWER", "valid": "VALID"}


@dataclass
class Operation:
    """An operation: what it reads, by the names of its parameters; constants have names of their own.

    Attributes:
      type: of it.
      inputs: parameter -> names of values.
      outputs, shapes: names of what it returns, and their shapes; an unknown length is None.
    """

    type: str
    inputs: dict[str, list[str]]
    outputs: list[str]
    shapes: list[list[int | None]]


def translated(operations: Sequence[Operation], ranks: Mapping[str, int], settings: Mapping[str, object]) -> list[dict]:
    """Returns the operations as nodes; those without a counterpart keep their names.

    Args:
      operations: of the program.
      ranks: number of axes of each constant.
      settings: values of small constants: numbers, nested lists, texts.
    """
    nodes: list[dict] = []
    ranks = dict(ranks)
    for operation in operations:
        ranks |= {name: len(shape) for name, shape in zip(operation.outputs, operation.shapes, strict=False)}
        nodes += _nodes(operation, ranks, settings)
    return nodes


def _nodes(operation: Operation, ranks: Mapping[str, int], settings: Mapping[str, object]) -> list[dict]:
    kind, given = operation.type, operation.inputs
    known = {key: settings.get(names[0]) for key, names in given.items() if names}
    if kind in NAMES:
        inputs = [name for key in INPUTS.get(kind, PLAIN) for name in given.get(key, [])]
    else:
        inputs = [name for names in given.values() for name in names]
    before: list[dict] = []
    if kind == "matmul":
        for place, key in enumerate(("transpose_x", "transpose_y")[: len(inputs)]):
            rank = ranks.get(inputs[place], 0)
            if known.get(key) and rank > 1:
                target = f"{operation.outputs[0]}.{key}:Transpose"
                order = [*range(rank - 2), rank - 1, rank - 2]
                before.append(_node("Transpose", target, inputs[place : place + 1], [target], {"perm": order}))
                inputs[place] = target
    attributes: dict[str, object] = {}
    match kind:
        case "conv" | "conv_transpose":
            groups = known.get("groups")
            attributes = {"group": groups if isinstance(groups, int) else 1}
            attributes |= {key: known[key] for key in ("strides", "dilations") if isinstance(known.get(key), list)}
            if str(known.get("pad_type")) in AUTO:
                attributes["auto_pad"] = AUTO[str(known["pad_type"])]
            elif isinstance(pad := known.get("pad"), list):  # begin and end of each axis in turn
                attributes["pads"] = pad[::2] + pad[1::2]
        case "transpose":
            attributes = {"perm": known["perm"]} if isinstance(known.get("perm"), list) else {}
            inputs = inputs[:1]
        case "concat" | "gather" | "softmax":
            attributes = {"axis": known["axis"] if isinstance(known.get("axis"), int) else 0}
        case _ if kind.startswith("reduce_"):
            attributes = {"keepdims": int(bool(known.get("keep_dims")))}
        case "batch_norm" | "layer_norm" if isinstance(known.get("epsilon"), float):
            attributes = {"epsilon": known["epsilon"]}
    name = operation.outputs[0] if operation.outputs else kind
    return [*before, _node(NAMES.get(kind, kind), name, inputs, operation.outputs, attributes)]


def _node(op: str, name: str, inputs: list[str], outputs: list[str], attributes: dict[str, object]) -> dict:
    return {"op": op, "domain": "", "name": name, "inputs": inputs, "outputs": outputs, "attributes": attributes}
