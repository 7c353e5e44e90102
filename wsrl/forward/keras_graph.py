"""The configuration of a Keras model as a `ForwardGraph`: layers in order become ONNX's operators.

https://keras.io/api/layers, Keras 2 and 3; see `wsrl.wiring.keras_config` for the models.
"""

from collections.abc import Callable, Mapping

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.forward.graph import ForwardGraph, Step
from wsrl.forward.steps import FIRST, Steps
from wsrl.wiring.keras_config import BROKEN, KerasWalk, all_names, ends, is_of_keras, layer_name

INPUT = "input"
PASSING = (
    *("Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization", "AlphaDropout"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomContrast", "RandomTranslation", "RandomBrightness"),
)
MERGES = {"Add": "Sum", "Multiply": "Mul", "Average": "Mean", "Maximum": "Max", "Minimum": "Min", "Subtract": "Sub"}
POOLS = {"MaxPooling2D": "MaxPool", "AveragePooling2D": "AveragePool"}
GLOBAL_POOLS = {"GlobalAveragePooling2D": "ReduceMean", "GlobalMaxPooling2D": "ReduceMax"}
ACTIVATIONS: dict[str, tuple[str, dict[str, object]]] = {
    **{"relu": ("Relu", {}), "relu6": ("Clip", {"min": 0.0, "max": 6.0}), "sigmoid": ("Sigmoid", {})},
    **{"softmax": ("Softmax", {"axis": -1}), "log_softmax": ("LogSoftmax", {"axis": -1}), "tanh": ("Tanh", {})},
    **{"elu": ("Elu", {}), "selu": ("Selu", {}), "gelu": ("Gelu", {}), "swish": ("Swish", {}), "silu": ("Swish", {})},
    **{"hard_swish": ("HardSwish", {}), "hard_silu": ("HardSwish", {}), "mish": ("Mish", {})},
    **{"softplus": ("Softplus", {}), "softsign": ("Softsign", {}), "exponential": ("Exp", {})},
    **{"leaky_relu": ("LeakyRelu", {"alpha": 0.2}), "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6})},
}


def from_keras(checkpoint: Checkpoint) -> ForwardGraph:
    """Returns the layers of a Keras model as operators.

    Args:
      checkpoint: with the model's configuration.

    Raises:
      CheckpointError: the configuration is not of a model with one input and one output, or not of a known form.
    """
    try:
        translation = _Translation(checkpoint)
        inputs, outputs = ends(checkpoint.keras_config)
        if inputs > 1 or outputs > 1:
            reason = f"it reads {inputs} values and returns {outputs}, where one image and classes are expected"
            raise CheckpointError(checkpoint.path, reason, "search by weights")
        (output,) = translation.add_model(checkpoint.keras_config, None, "")
    except BROKEN as error:
        if isinstance(error, CheckpointError):
            raise
        reason = f"its configuration is not of a known form ({error!r})"
        raise CheckpointError(checkpoint.path, reason, "search by weights") from error
    shape = translation.input_shape or ()
    return ForwardGraph(tuple(translation.steps), INPUT, shape, output, translation.constants, channels_last=True)


class _Translation(KerasWalk, Steps):
    """Steps so far, and where the weights of each layer are."""

    def __init__(self, checkpoint: Checkpoint):
        KerasWalk.__init__(self)
        Steps.__init__(self)
        self.checkpoint = checkpoint
        self.input_shape: tuple[int | None, ...] | None = None
        self.ranks: dict[str, int] = {}  # of values
        version = str(checkpoint.metadata.get("keras_version") or "3")
        self.old = version.startswith(("1.", "2."))
        models, layers = all_names(checkpoint.keras_config)
        self.weights: dict[str, dict[str, str]] = {}
        for name in checkpoint.tensors:
            *parts, role = name.split("/")
            inner = [part for part in parts if part not in models or part in layers]
            owner = next((part for part in inner if part in layers), None)
            if owner is not None and self.weights.setdefault(owner, {}).setdefault(role, name) != name:
                raise ValueError(f"layer {owner!r} has two tensors {role!r}")

    def feed(self, name: str, shape: object) -> str:
        """Takes up the input; ValueError if it is a second one."""
        if self.input_shape is not None:
            raise ValueError("several inputs")
        lengths = shape[1:] if isinstance(shape, list | tuple) else ()
        self.input_shape = tuple(n if isinstance(n, int) else None for n in lengths)
        self.ranks[INPUT] = 1 + len(self.input_shape)
        return INPUT

    def add_layer(self, layer: Mapping, read: list[str], value: str) -> list[str]:
        """Adds the steps of a layer, or one whose operator is not known."""
        kind, config = layer["class_name"], layer["config"]
        rule = RULES.get(kind) if is_of_keras(layer) else None
        if rule is None or config.get("data_format") == "channels_first":
            missing = kind if rule is None else f"{kind} with channels first"
            self.steps.append(Step(missing, tuple(read), (value,)))
            self.ranks[value] = self.ranks[read[0]]
            return [value]
        own = _Layer(layer_name(layer), config, self.weights.get(layer_name(layer), {}))
        found = self.activated(rule(self, own, *read), config.get("activation"))
        self.ranks[found] = self._rank(kind, config, self.ranks[read[0]])
        return [found]

    def _rank(self, kind: str, config: Mapping, before: int) -> int:
        """How many axes a layer returns."""
        if kind == "Reshape":
            return 1 + len(config["target_shape"])
        flat = kind == "Flatten" or (kind in GLOBAL_POOLS and not config.get("keepdims"))
        return 2 if flat else before

    def activated(self, value: str, activation: object) -> str:
        """Adds an activation that a configuration names."""
        if activation in (None, "linear"):
            return value
        name = str(activation.get("class_name") if isinstance(activation, Mapping) else activation)
        if name not in ACTIVATIONS:
            return self.add(f"activation {name}", value)
        op, told = ACTIVATIONS[name]
        if name == "hard_sigmoid" and self.old:
            told = {"alpha": 0.2}
        return self.add(op, value, **told)


class _Layer:
    """A layer with its configuration and weights."""

    def __init__(self, name: str, config: Mapping, weights: Mapping[str, str]):
        self.name, self.config, self.weights = name, config, weights

    def weight(self, role: str) -> str:
        """Name of a tensor that must be there."""
        if role not in self.weights:
            raise ValueError(f"layer {self.name!r} lacks its {role}")
        return self.weights[role]

    def pair(self, key: str, default: object = 1) -> tuple[int, int]:
        """Two numbers, of rows and columns."""
        value = self.config.get(key)
        value = default if value is None else value
        first, second = value if isinstance(value, list | tuple) else (value, value)
        return int(first), int(second)  # pyright: ignore[reportArgumentType]

    @property
    def window(self) -> dict[str, object]:
        """Strides, dilations and padding as ONNX has them."""
        padding = {"same": "SAME_UPPER", "valid": "VALID"}[str(self.config["padding"]).lower()]
        return {"strides": self.pair("strides"), "dilations": self.pair("dilation_rate"), "auto_pad": padding}


def _conv(t: _Translation, layer: _Layer, x: str) -> str:
    kernel = t.add("Transpose", layer.weight("kernel"), perm=(3, 2, 0, 1))
    bias = [layer.weights["bias"]] if "bias" in layer.weights else []
    return t.add_on_channels_first("Conv", x, kernel, *bias, group=int(layer.config.get("groups", 1)), **layer.window)


def _depthwise(t: _Translation, layer: _Layer, x: str, biased: bool = True) -> str:
    role = "depthwise_kernel" if "depthwise_kernel" in layer.weights else "kernel"
    height, width, channels, times = t.checkpoint.tensors[layer.weight(role)].shape
    shape = t.constant([height, width, 1, channels * times])
    kernel = t.add("Transpose", t.add("Reshape", layer.weight(role), shape), perm=(3, 2, 0, 1))
    bias = [layer.weights["bias"]] if biased and "bias" in layer.weights else []
    return t.add_on_channels_first("Conv", x, kernel, *bias, group=channels, **layer.window)


def _separable(t: _Translation, layer: _Layer, x: str) -> str:
    kernel = t.add("Transpose", layer.weight("pointwise_kernel"), perm=(3, 2, 0, 1))
    bias = [layer.weights["bias"]] if "bias" in layer.weights else []
    return t.add_on_channels_first("Conv", _depthwise(t, layer, x, biased=False), kernel, *bias)


def _dense(t: _Translation, layer: _Layer, x: str) -> str:
    found = t.add("MatMul", x, layer.weight("kernel"))
    return t.add("Add", found, layer.weights["bias"]) if "bias" in layer.weights else found


def _batch_norm(t: _Translation, layer: _Layer, x: str) -> str:
    """Along the last axis."""
    axis = layer.config.get("axis", -1)
    rank = t.ranks[x]
    if (axis[0] if isinstance(axis, list) else axis) not in (-1, rank - 1):
        raise ValueError("a batch norm along another axis than the last")
    mean, variance = layer.weight("moving_mean"), layer.weight("moving_variance")
    units = t.checkpoint.tensors[mean].shape
    gain, shift = (
        layer.weights.get(role) or t.constant(np.full(units, default, np.float32))
        for role, default in (("gamma", 1), ("beta", 0))
    )
    add = t.add_on_channels_first if rank == len(FIRST) else t.add
    epsilon = layer.config.get("epsilon", 1e-3)
    return add("BatchNormalization", x, gain, shift, mean, variance, epsilon=epsilon)


def _layer_norm(t: _Translation, layer: _Layer, x: str) -> str:
    axis = layer.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    factors = [layer.weights[role] for role in ("gamma", "beta") if role in layer.weights]
    return t.add("LayerNormalization", x, *factors, axis=axis, epsilon=layer.config.get("epsilon", 1e-3))


def _relu(t: _Translation, layer: _Layer, x: str) -> str:
    told = layer.config
    if told.get("threshold") or (told.get("negative_slope") and told.get("max_value") is not None):
        raise ValueError("a ReLU with a threshold, or with a slope and a limit")
    if told.get("negative_slope"):
        return t.add("LeakyRelu", x, alpha=float(told["negative_slope"]))
    return t.add("Clip", x, min=0.0, **({} if told.get("max_value") is None else {"max": float(told["max_value"])}))


def _leaky(t: _Translation, layer: _Layer, x: str) -> str:
    return t.add("LeakyRelu", x, alpha=float(layer.config.get("negative_slope", layer.config.get("alpha", 0.3))))


def _pool(op: str) -> "Rule":
    def rule(t: _Translation, layer: _Layer, x: str) -> str:
        size = layer.pair("pool_size", 2)
        window = {**layer.window, "kernel_shape": size, "strides": layer.pair("strides", size)}
        return t.add_on_channels_first(op, x, **window)

    return rule


def _global_pool(op: str) -> "Rule":
    def rule(t: _Translation, layer: _Layer, x: str) -> str:
        return t.add(op, x, t.constant([1, 2]), keepdims=int(bool(layer.config.get("keepdims"))))

    return rule


def _merge(op: str) -> "Rule":
    return lambda t, layer, *read: t.add(op, *read)


def _reshape(t: _Translation, layer: _Layer, x: str) -> str:
    return t.add("Reshape", x, t.constant([0, *layer.config["target_shape"]]))


def _padded(t: _Translation, layer: _Layer, x: str) -> str:
    (top, bottom), (left, right) = _sides(layer.config["padding"])
    return t.add("Pad", x, t.constant([0, top, left, 0, 0, bottom, right, 0]))


def _cropped(t: _Translation, layer: _Layer, x: str) -> str:
    (top, bottom), (left, right) = _sides(layer.config["cropping"])
    ends = [-bottom or 2**31, -right or 2**31]
    return t.add("Slice", x, t.constant([top, left]), t.constant(ends), t.constant([1, 2]))


def _sides(value: object) -> list[tuple[int, int]]:
    rows = value if isinstance(value, list | tuple) else (value, value)
    return [(int(n[0]), int(n[1])) if isinstance(n, list | tuple) else (int(n), int(n)) for n in rows]  # pyright: ignore[reportArgumentType]


def _rescaled(t: _Translation, layer: _Layer, x: str) -> str:
    scale, offset = (t.constant(np.float32(layer.config.get(key, n))) for key, n in (("scale", 1), ("offset", 0)))
    return t.add("Add", t.add("Mul", x, scale), offset)


def _concatenated(t: _Translation, layer: _Layer, *read: str) -> str:
    return t.add("Concat", *read, axis=int(layer.config.get("axis", -1)))


Rule = Callable[..., str]
RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSING, lambda t, layer, x: x),
    **{name: _merge(op) for name, op in MERGES.items()},
    **{name: _pool(op) for name, op in POOLS.items()},
    **{name: _global_pool(op) for name, op in GLOBAL_POOLS.items()},
    **{"Conv2D": _conv, "DepthwiseConv2D": _depthwise, "SeparableConv2D": _separable, "Dense": _dense},
    **{"BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "ReLU": _relu, "LeakyReLU": _leaky},
    **{"Reshape": _reshape, "ZeroPadding2D": _padded, "Cropping2D": _cropped, "Rescaling": _rescaled},
    "Concatenate": _concatenated,
    "Activation": lambda t, layer, x: x,  # what all layers may have follows
    "Softmax": lambda t, layer, x: t.add("Softmax", x, axis=int(layer.config.get("axis", -1))),
    "ELU": lambda t, layer, x: t.add("Elu", x, alpha=float(layer.config.get("alpha", 1.0))),
    "PReLU": lambda t, layer, x: t.add("PRelu", x, layer.weight("alpha")),
    "Flatten": lambda t, layer, x: t.add("Flatten", x, axis=1),
}
