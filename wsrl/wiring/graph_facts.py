"""What a graph's nodes say of the operations beside their tensors: strides, padding, epsilons, what follows them.

ONNX: https://onnx.ai/onnx/operators; TFLite: the options of the schema's built-in operators.
"""

from collections.abc import Mapping, Sequence

from wsrl.wiring.scale import LAYERS, SCALES
from wsrl.wiring.tree import Shape
from wsrl.wiring.wiring import Fact, Value

TYPES = {
    **dict.fromkeys(("Conv", "CONV_2D", "DEPTHWISE_CONV_2D"), "conv"),
    **dict.fromkeys(("ConvTranspose", "TRANSPOSE_CONV"), "transposed conv"),
    **dict.fromkeys(("Gemm", "MatMul", "FULLY_CONNECTED"), "linear"),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "recurrent"),
    **{"BatchNormalization": "batch norm", "LayerNormalization": "norm", "Gather": "embedding", "GATHER": "embedding"},
}
ROLES = {
    **{type: {0: "weight", 1: "weight", 2: "bias"} for type in ("conv", "transposed conv", "linear")},
    **{"recurrent": {1: "weight_ih", 2: "weight_hh", 3: "bias"}, "embedding": {0: "weight"}},
    **{"batch norm": {1: "gain", 2: "shift", 3: "mean", 4: "variance"}, "norm": {1: "gain", 2: "shift"}},
}
ACTIVATIONS = {
    **{"Relu": "relu", "LeakyRelu": "leaky_relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Gelu": "gelu", "Elu": "elu"},
    **{"HardSwish": "hard_swish", "Selu": "selu", "Softplus": "softplus", "Mish": "mish", "Softmax": "softmax"},
    **{"RELU": "relu", "RELU6": "relu6", "LEAKY_RELU": "leaky_relu", "TANH": "tanh", "LOGISTIC": "sigmoid"},
    **{"GELU": "gelu", "ELU": "elu", "HARD_SWISH": "hard_swish", "SOFTMAX": "softmax", "LogSoftmax": "log_softmax"},
    **{"LOG_SOFTMAX": "log_softmax", "Clip": "clip"},
}
POOLS = {
    **{
        "MaxPool": "max",
        "AveragePool": "average",
        "GlobalAveragePool": "global average",
        "GlobalMaxPool": "global max",
    },
    **{"MAX_POOL_2D": "max", "AVERAGE_POOL_2D": "average"},
}
ODD = (  # operators that treat a value and its opposite alike
    *("AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Identity", "Transpose", "Squeeze", "ReduceMean"),
    *("AVERAGE_POOL_2D", "RESHAPE", "PAD", "TRANSPOSE", "SQUEEZE", "MEAN"),
)
HOMOGENEOUS = (*ODD, "MaxPool", "GlobalMaxPool", "MAX_POOL_2D")  # under positive factors
EPSILON = 1e-5  # ONNX's default


def facts_of_node(node: Mapping, shapes: Mapping[str, Shape]) -> dict[str, Fact]:
    """Returns what a node's own attributes say."""
    attributes, type = node["attributes"], TYPES.get(node["op"])
    if "facts" in attributes:  # told in full, of kernels in another layout
        return {name: Fact(value, "config") for name, value in attributes["facts"].items()}
    found: dict[str, Value] = {}
    if type in ("conv", "transposed conv"):
        shape = shapes.get(node["inputs"][1], ())
        lite = node["op"].isupper()
        found["kernel"] = shape[1:-1] if lite else shape[2:]
        strides = (attributes.get("stride_h"), attributes.get("stride_w")) if lite else attributes.get("strides")
        found["stride"] = integers(strides) or (1,) * len(shape[2:])
        groups = shape[-1] if node["op"] == "DEPTHWISE_CONV_2D" else attributes.get("group", 1)
        found["groups"] = groups // attributes.get("depth_multiplier", 1) if lite else groups
        automatic = attributes.get("padding") if lite else attributes.get("auto_pad", "NOTSET")
        dilation = (attributes.get("dilation_h"), attributes.get("dilation_w")) if lite else attributes.get("dilations")
        if any(n != 1 for n in integers(dilation) or ()):
            found["dilation"] = integers(dilation)
        padding = None if automatic in (None, "NOTSET") else str(automatic).lower()
        found["padding"] = padding or integers(attributes.get("pads")) or (0,) * 2 * len(shape[2:])
    elif type in ("norm", "batch norm"):
        found["epsilon"] = attributes.get("epsilon", EPSILON)
    fused = attributes.get("activation", "NONE")
    if fused != "NONE":
        found["activation"] = ACTIVATIONS.get(fused, str(fused).lower())
    return {name: Fact(value, "graph") for name, value in found.items()}


def integers(values: object) -> tuple[int, ...] | None:
    """A list of whole numbers as a tuple; None for anything else, and for none at all."""
    whole = isinstance(values, Sequence) and bool(values) and all(type(n) is int for n in values)
    return tuple(values) if whole else None  # type: ignore[arg-type]


class Readers:
    """Which nodes of a graph read which value."""

    def __init__(self, graph: Mapping):
        self._nodes: dict[str, list[Mapping]] = {}
        for node in graph["nodes"]:
            for name in dict.fromkeys(node["inputs"]) if node["outputs"] else ():  # without, it computes nothing
                self._nodes.setdefault(name, []).append(node)
        self._outputs = {value["name"] for value in graph["outputs"] if value}

    def only(self, value: str) -> Mapping | None:
        """The node that alone reads a value which is no output of the network."""
        nodes = self._nodes.get(value, [])
        return nodes[0] if len(nodes) == 1 and value not in self._outputs else None

    def nodes(self, value: str) -> Sequence[Mapping]:
        """All nodes that read a value."""
        return self._nodes.get(value, [])

    def is_output(self, value: str) -> bool:
        """Whether the network returns a value."""
        return value in self._outputs

    def scale(self, value: str, fused: Fact | None) -> str | None:
        """The scale of units that an operation returns, if one operation reads them after a homogeneous activation.

        Args:
          value: that the operation returns.
          fused: activation of the operation, if its node says so.
        """
        activation, node = fused.value if fused else None, self.only(value)
        if activation is None and node is not None:
            activation = ACTIVATIONS.get(node["op"])
            node = self.only(node["outputs"][0])
        scale = SCALES.get(str(activation))
        seen: set[str] = set()  # a broken graph may run in circles
        while node is not None and node["op"] in (HOMOGENEOUS if scale == "positive" else ODD):
            if node["attributes"].get("activation", "NONE") != "NONE" or node["outputs"][0] in seen:
                return None
            seen.add(node["outputs"][0])
            node = self.only(node["outputs"][0])
        reads = node is not None and TYPES.get(node["op"]) in LAYERS
        return scale if reads else None

    @staticmethod
    def swish(nodes: Sequence[Mapping]) -> Mapping | None:
        """The product of a value and its sigmoid, if nothing else reads the value."""
        gate = next((n for n in nodes if n["op"] in ("Sigmoid", "LOGISTIC")), None)
        product = next((n for n in nodes if n["op"] in ("Mul", "MUL")), None)
        swish = len(nodes) == 2 and gate and product and gate["outputs"][0] in product["inputs"]
        return product if swish else None
