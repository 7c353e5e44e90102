"""What each kind of Keras layer does, as nodes of a graph, and the shapes that it returns.

https://keras.io/api/layers, channels last. Weights are read under the names that Keras gives to them.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

from wsrl.wiring.keras_layer import Layer, Made, Rule
from wsrl.wiring.keras_sequences import CELLS, attention, bidirectional, embedding, recurrent

SLOPE = 0.2  # of the activation `leaky_relu`; that of the layer is 0.3
PASSING = (
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout"),
    *("AlphaDropout", "ActivityRegularization", "Masking", "Activation", "Identity"),
)
MERGES = {
    **{"Add": "ADD", "Multiply": "MUL", "Subtract": "SUB", "Average": "AVERAGE"},
    **{"Maximum": "MAXIMUM", "Minimum": "MINIMUM"},
}
MERGING = (*MERGES, "Concatenate", "MultiHeadAttention")  # layers that may read several values


def _pass(layer: Layer) -> Iterator[Made]:
    return iter(())


def _plain(op: str) -> Rule:
    def rule(layer: Layer) -> Iterator[Made]:
        yield op, [], {}, layer.read[0]

    return rule


def _conv(rank: int) -> Rule:
    def rule(layer: Layer) -> Iterator[Made]:
        kernel, bias = layer.weight("kernel"), layer.optional("bias", "use_bias")
        *size, _, units = layer.shape(kernel)
        strides, dilation = layer.numbers("strides", rank), layer.numbers("dilation_rate", rank)
        (groups,) = layer.numbers("groups", 1)
        shape = layer.maps(rank, lambda: layer.windows(size, strides, dilation), units)
        yield "CONV_2D", [kernel, bias], {"group": groups, "facts": _facts(layer, strides, dilation, groups)}, shape

    return rule


def _depthwise(rank: int, role: str = "depthwise_kernel", last: bool = True) -> Rule:
    def rule(layer: Layer) -> Iterator[Made]:
        named = any(path.split("/")[-1] == role for path in layer.weights)
        kernel = layer.weight(role if named else "kernel")
        *size, channels, times = layer.shape(kernel)
        strides, dilation = layer.numbers("strides", rank), layer.numbers("dilation_rate", rank)
        shape = layer.maps(rank, lambda: layer.windows(size, strides, dilation), channels * times)
        told = {"facts": _facts(layer, strides, dilation, channels)}
        yield "DEPTHWISE_CONV_2D", [kernel, layer.optional("bias", "use_bias") if last else ""], told, shape

    return rule


def _separable(rank: int) -> Rule:
    def rule(layer: Layer) -> Iterator[Made]:
        (first,) = _depthwise(rank, last=False)(layer)
        yield first
        kernel, ones = layer.weight("pointwise_kernel"), (1,) * rank
        told = {"group": 1, "facts": {"stride": ones, "padding": "valid", "dilation": ones, "groups": 1}}
        shape = (*first[3][:-1], layer.shape(kernel)[-1]) if first[3] else None
        yield "CONV_2D", [kernel, layer.optional("bias", "use_bias")], told, shape

    return rule


def _transposed(rank: int) -> Rule:
    def rule(layer: Layer) -> Iterator[Made]:
        kernel, bias = layer.weight("kernel"), layer.optional("bias", "use_bias")
        units = layer.shape(kernel)[-2]
        strides, dilation = layer.numbers("strides", rank), layer.numbers("dilation_rate", rank)
        same = str(layer.config.get("padding")).lower() == "same" and not layer.config.get("output_padding")

        def lengths() -> list[int | None]:
            before = layer.known()[1:-1]
            return [n * s if same and n else None for n, s in zip(before, strides, strict=True)]

        told = {"facts": _facts(layer, strides, dilation, 1)}
        yield "ConvTranspose", [kernel, bias], told, layer.maps(rank, lengths, units)

    return rule


def _facts(layer: Layer, strides: Sequence[int], dilation: Sequence[int], groups: int) -> dict:
    padding = str(layer.config.get("padding", "valid")).lower()
    return {"stride": tuple(strides), "padding": padding, "dilation": tuple(dilation), "groups": groups}


def _dense(layer: Layer) -> Iterator[Made]:
    kernel, bias = layer.weight("kernel"), layer.optional("bias", "use_bias")
    shape, (_, units) = layer.read[0], layer.shape(kernel)
    yield "FULLY_CONNECTED", [kernel, bias], {"facts": {}}, (*shape[:-1], units) if shape else None


def _batch_norm(layer: Layer) -> Iterator[Made]:
    _check_last_axis(layer)
    names = [layer.optional("gamma", "scale"), layer.optional("beta", "center")]
    names += [layer.weight("moving_mean"), layer.weight("moving_variance")]
    yield "BatchNormalization", names, {"facts": {}}, layer.known()


def _layer_norm(layer: Layer) -> Iterator[Made]:
    _check_last_axis(layer)
    names = [layer.optional("gamma", "scale"), layer.optional("beta", "center")]
    yield "LayerNormalization", names, {"facts": {}}, layer.known()


def _check_last_axis(layer: Layer) -> None:
    axis = layer.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, len(layer.known()) - 1):
        raise ValueError("along another axis than the last")


def _pool(op: str, rank: int) -> Rule:
    def rule(layer: Layer) -> Iterator[Made]:
        size = layer.numbers("pool_size", rank, 2)
        strides = layer.numbers("strides", rank, size)
        names = ("filter_height", "filter_width", "stride_h", "stride_w")
        told = dict(zip(names, (*size, *strides), strict=True)) if rank == 2 else {}
        lengths = layer.windows(size, strides, (1,) * rank)
        shape = (layer.known()[0], *lengths, layer.known()[-1])
        padding = str(layer.config.get("padding", "valid")).lower()
        yield (op if rank == 2 else "POOL"), [], {**told, "padding": padding}, shape

    return rule


def _global_pool(op: str) -> Rule:
    def rule(layer: Layer) -> Iterator[Made]:
        shape, keep = layer.known(), bool(layer.config.get("keepdims"))
        told = {"axes": [*range(1, len(shape) - 1)], "keepdims": keep}
        yield op, [], told, (shape[0], *((1,) * (len(shape) - 2) if keep else ()), shape[-1])

    return rule


def _merge(op: str) -> Rule:
    def rule(layer: Layer) -> Iterator[Made]:
        shapes = [layer.known(i) for i in range(len(layer.read))]
        if len({len(shape) for shape in shapes}) != 1:
            raise ValueError("values of unlike numbers of axes")
        lengths = [{n for n in each if n != 1} for each in zip(*shapes, strict=True)]
        yield op, [], {}, tuple(1 if not n else next(iter(n)) if len(n) == 1 else None for n in lengths)

    return rule


def _concatenate(layer: Layer) -> Iterator[Made]:
    shapes = [layer.known(i) for i in range(len(layer.read))]
    rank = len(shapes[0])
    axis = int(layer.config.get("axis", -1)) % rank
    lengths = [shape[axis] for shape in shapes]
    whole = None if None in lengths else sum(n for n in lengths if n)
    yield "CONCATENATION", [], {"axis": axis}, (*shapes[0][:axis], whole, *shapes[0][axis + 1 :])


def _flatten(layer: Layer) -> Iterator[Made]:
    shape = layer.known()
    count = prod(n for n in shape[1:-1] if n) if None not in shape[1:-1] else None
    units = count * shape[-1] if count is not None and shape[-1] is not None else None
    yield "RESHAPE", [], {"positions": count, "shape": None}, (shape[0], units)


def _reshape(layer: Layer) -> Iterator[Made]:
    shape, target = layer.known(), list(layer.config["target_shape"])
    if -1 in target:
        rest = [n for n in shape[1:] if n is not None]
        whole = prod(rest) if len(rest) == len(shape) - 1 else 0
        target[target.index(-1)] = whole // prod(n for n in target if n != -1) if whole else None
    if len(target) == 1:
        yield from _flatten(layer)
    elif target[-1] == shape[-1] and target[-1] is not None:
        yield "RESHAPE", [], {"positions": None, "shape": [None, *target]}, (shape[0], *target)
    else:
        raise ValueError("units and positions mix")


def _repeat(layer: Layer) -> Iterator[Made]:
    shape, times = layer.known(), int(layer.config["n"])
    yield "RESHAPE", [], {"positions": None, "shape": [None, times, shape[-1]]}, (shape[0], times, shape[-1])


def _permute(layer: Layer) -> Iterator[Made]:
    order = [0, *layer.config["dims"]]
    yield "TRANSPOSE", [], {"perm": order}, tuple(layer.known()[i] for i in order)


def _resized(op: str, rank: int) -> Rule:
    """Layers that change the positions alone, to lengths that are not followed but for whole factors."""

    def rule(layer: Layer) -> Iterator[Made]:
        shape = layer.known()
        if len(shape) != rank + 2:
            raise ValueError("maps of another number of axes")
        lengths: Sequence[int | None] = (None,) * rank
        if op == "RESIZE_NEAREST_NEIGHBOR":
            factors = layer.numbers("size", rank, 2)
            lengths = [n * f if n else None for n, f in zip(shape[1:-1], factors, strict=True)]
        else:
            key = "padding" if op == "PAD" else "cropping"
            sides = _sides(layer.config[key], rank)
            sign = 1 if op == "PAD" else -1
            lengths = [n + sign * lost if n else None for n, lost in zip(shape[1:-1], sides, strict=True)]
        yield op, [], {}, (shape[0], *lengths, shape[-1])

    return rule


def _sides(value: Any, rank: int) -> list[int]:
    """How much is added to, or cut off, each axis of the positions."""
    if rank == 1 and isinstance(value, list | tuple) and all(isinstance(n, int) for n in value):
        value = [value]
    rows = list(value) if isinstance(value, list | tuple) else [value] * rank
    return [int(n[0]) + int(n[1]) if isinstance(n, list | tuple) else 2 * int(n) for n in rows]


def _relu(layer: Layer) -> Iterator[Made]:
    told = layer.config
    slope, limit = told.get("negative_slope") or 0.0, told.get("max_value")
    plain = not slope and not told.get("threshold")
    op = {None: "RELU", 6: "RELU6"}.get(limit, "LIMITED_RELU") if plain else "LIMITED_RELU"
    yield op, [], {}, layer.read[0]


def _leaky(layer: Layer) -> Iterator[Made]:
    slope = float(layer.config.get("negative_slope", layer.config.get("alpha", 0.3)))
    yield "LEAKY_RELU", [], {"alpha": slope}, layer.read[0]


def _prelu(layer: Layer) -> Iterator[Made]:
    yield "PRELU", [layer.weight("alpha")], {}, layer.known()


def _rescaled(layer: Layer) -> Iterator[Made]:
    if not all(isinstance(layer.config.get(key, 0), int | float) for key in ("scale", "offset")):
        raise ValueError("a factor for each unit")
    yield "RESCALE", [], {}, layer.read[0]


def _by_rank(kind: str, rule: Callable[[int], Rule]) -> dict[str, Rule]:
    return {f"{kind}{rank}D": rule(rank) for rank in (1, 2, 3)}


LAYERS: dict[str, Rule] = {
    **dict.fromkeys(PASSING, _pass),
    **{name: _merge(op) for name, op in MERGES.items()},
    **{"Concatenate": _concatenate, "Dense": _dense, "Embedding": embedding},
    **_by_rank("Conv", _conv),
    **{"Convolution1D": _conv(1), "Convolution2D": _conv(2)},
    **{"DepthwiseConv1D": _depthwise(1), "DepthwiseConv2D": _depthwise(2)},
    **{"SeparableConv1D": _separable(1), "SeparableConv2D": _separable(2)},
    **{f"Conv{rank}DTranspose": _transposed(rank) for rank in (1, 2, 3)},
    **{"BatchNormalization": _batch_norm, "BatchNormalizationV1": _batch_norm, "LayerNormalization": _layer_norm},
    **dict.fromkeys(CELLS, recurrent),
    **{"Bidirectional": bidirectional, "MultiHeadAttention": attention},
    **_by_rank("MaxPooling", lambda rank: _pool("MAX_POOL_2D", rank)),
    **_by_rank("AveragePooling", lambda rank: _pool("AVERAGE_POOL_2D", rank)),
    **_by_rank("GlobalAveragePooling", lambda rank: _global_pool("MEAN")),
    **_by_rank("GlobalMaxPooling", lambda rank: _global_pool("REDUCE_MAX")),
    **_by_rank("UpSampling", lambda rank: _resized("RESIZE_NEAREST_NEIGHBOR", rank)),
    **_by_rank("ZeroPadding", lambda rank: _resized("PAD", rank)),
    **_by_rank("Cropping", lambda rank: _resized("CROP", rank)),
    **{"Flatten": _flatten, "Reshape": _reshape, "RepeatVector": _repeat, "Permute": _permute},
    **{"ReLU": _relu, "LeakyReLU": _leaky, "PReLU": _prelu, "ELU": _plain("ELU"), "Softmax": _plain("SOFTMAX")},
    **{"ThresholdedReLU": _plain("ThresholdedRelu"), "Rescaling": _rescaled},
}
