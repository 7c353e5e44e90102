"""Reads Core ML's neural networks, the form before ML programs: layers whose weights lie within them.

The messages: https://github.com/apple/coremltools, `mlmodel/format/NeuralNetwork.proto`. The order of packed codes is
that of its `quantization_utils.py`: the highest bit first.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.budget import Budget
from wsrl.readers.derived import computed, unpacked
from wsrl.readers.mapped import checked_name, checked_shape
from wsrl.readers.protobuf import Kind, WireError, fields, read, unpack

MEND = "save or download it again"
NETWORK = {1: ("layers", Kind.MESSAGE)}
NAME = {1: ("name", Kind.TEXT)}
_NORM = {15: "gamma", 16: "beta", 17: "mean", 18: "variance"}
_AFFINE = {20: "weight", 21: "bias"}
_GATES = ("inputGate", "forgetGate", "blockInput", "outputGate")
_LSTM = {
    **{1 + i: f"{gate}WeightMatrix" for i, gate in enumerate(_GATES)},
    **{20 + i: f"{gate}RecursionMatrix" for i, gate in enumerate(_GATES)},
    **{40 + i: f"{gate}BiasVector" for i, gate in enumerate(_GATES)},
    **{60 + i: f"{gate}PeepholeVector" for i, gate in enumerate(("inputGate", "forgetGate", "outputGate"))},
}
_GRU_GATES = ("updateGate", "resetGate", "outputGate")
_GRU = {
    **{30 + i: f"{gate}WeightMatrix" for i, gate in enumerate(_GRU_GATES)},
    **{50 + i: f"{gate}RecursionMatrix" for i, gate in enumerate(_GRU_GATES)},
    **{70 + i: f"{gate}BiasVector" for i, gate in enumerate(_GRU_GATES)},
}
LAYERS: Mapping[int, Mapping[int, str]] = {  # field of a layer -> field of its weights -> their name
    **{100: {90: "weight", 91: "bias"}, 140: _AFFINE, 150: _AFFINE, 160: _NORM, 245: {2: "scale", 5: "bias"}},
    **{250: {2: "bias"}, 290: {2: "data"}, 400: {30: "weight", 31: "recursion", 32: "bias"}, 410: _GRU},
    **{500: {20: "weight"}, 1040: _AFFINE, 1045: {8: "weight", 9: "bias"}, 1070: {2: "data"}},
    **{1350: {3: "gamma", 4: "beta"}, 1471: {60: "weight", 61: "bias"}},
}
NESTED = {420: {20: _LSTM}, 430: {20: _LSTM}, 130: {25: {1: "alpha"}, 71: {1: "alpha", 2: "beta"}}}
CONVOLUTION, CONVOLUTION_3D, SHAPED = 100, 1471, (245, 250, 290, 1070)
WEIGHTS = {
    **{1: ("floats", Kind.MESSAGE), 2: ("halves", Kind.MESSAGE), 30: ("raw", Kind.MESSAGE)},
    **{31: ("int8", Kind.MESSAGE), 40: ("quantization", Kind.MESSAGE)},
}
QUANTIZATION = {1: ("bits", Kind.INTEGERS), 101: ("linear", Kind.MESSAGE), 102: ("table", Kind.MESSAGE)}
LINEAR, TABLE = {1: ("scale", Kind.FLOATS), 2: ("bias", Kind.FLOATS)}, {1: ("values", Kind.FLOATS)}


def read_network(message: memoryview, path: Path, budget: Budget) -> tuple[dict[str, LazyTensor], dict[str, object]]:
    """Returns the weights of a network by name, and its metadata.

    Raises:
      WireError, UnicodeDecodeError: the message is not well-formed.
      CheckpointError: weights have not as many entries as they claim.
    """
    tensors: dict[str, LazyTensor] = {}
    for layer in budget.each(read(message, NETWORK, budget)["layers"]):
        owner = "".join(read(layer, NAME, budget)["name"][-1:])
        for kind, _, inner in fields(layer):
            if not isinstance(inner, memoryview):
                continue
            names = LAYERS.get(kind, {})
            for place, _, value in fields(inner) if kind in LAYERS or kind in NESTED else ():
                if place in names and isinstance(value, memoryview):
                    _add(
                        tensors,
                        f"{owner}.{names[place]}",
                        value,
                        _shape(kind, names[place], inner, budget),
                        path,
                        budget,
                    )
                elif place in NESTED.get(kind, {}) and isinstance(value, memoryview):
                    deeper = NESTED[kind][place]
                    for number, _, part in fields(value):
                        if number in deeper and isinstance(part, memoryview):
                            _add(tensors, f"{owner}.{deeper[number]}", part, None, path, budget)
    return tensors, {"left_out": ()}


def _add(
    tensors: dict[str, LazyTensor],
    name: str,
    message: memoryview,
    shape: list[int] | None,
    path: Path,
    budget: Budget,
) -> None:
    name = checked_name(name, path)
    while name in tensors:
        name = f"{name}:{len(tensors)}"
    tensor = _weights(read(message, WEIGHTS, budget), shape, path, name, budget)
    if tensor is not None:
        tensors[name] = tensor


def _shape(kind: int, name: str, layer: memoryview, budget: Budget) -> list[int] | None:
    """The shape of a layer's weights as the layer describes it; None for vectors."""
    if kind in SHAPED:
        numbers = {number: values for number, values in _integers(layer, (1, 4)).items() if values}
        return numbers.get(4 if (kind, name) == (245, "bias") else 1)
    if name != "weight":
        return None
    sizes = {number: values[-1] for number, values in _integers(layer, (1, 2, 5, 6, 10, 21, 22, 60)).items() if values}
    first, second = sizes.get(1, 0), sizes.get(2, 0)
    if kind == CONVOLUTION:
        kernel = _integers(layer, (20,))[20] or [3, 3]
        groups = max(sizes.get(10, 1), 1)
        return [second, first // groups, *kernel] if sizes.get(60) else [first, second, *kernel]
    if kind == CONVOLUTION_3D:
        kernel = [(_integers(layer, (place,))[place] or [0])[-1] for place in (20, 21, 22)]
        return [first, second // max(sizes.get(10, 1), 1), *kernel]
    if kind == 1045:
        return [sizes.get(5, 0), sizes.get(6, 0)]
    return [first, second] if kind == 400 else [second, first]


def _integers(message: memoryview, numbers: tuple[int, ...]) -> dict[int, list[int]]:
    """Whole numbers among the fields of a message, of those that are whole numbers."""
    found: dict[int, list[int]] = {number: [] for number in numbers}
    for number, wire, value in fields(message):
        if number in found and wire == 0 and isinstance(value, int):
            found[number].append(value)
        elif number in found and isinstance(value, memoryview) and len(value) <= 80:
            found[number] += unpack(np.frombuffer(value, np.uint8), np.dtype(np.int64)).tolist()
    return found


def _weights(
    told: dict[str, list], shape: list[int] | None, path: Path, name: str, budget: Budget
) -> LazyTensor | None:
    """The tensor of a WeightParams; None if it is empty."""
    key = next((key for key in ("floats", "halves", "raw", "int8") if told[key] and len(told[key][-1])), None)
    if key is None:
        return None
    stored = np.frombuffer(told[key][-1], np.uint8)
    if key in ("floats", "halves"):
        if len(stored) % (4 if key == "floats" else 2):
            raise WireError("numbers are not whole")
        array = stored.view("<f4" if key == "floats" else "<f2")
        return LazyTensor.of(array.reshape(_fitting(shape, array.size, path, name)), path, name)
    quantization = read(told["quantization"][-1] if told["quantization"] else memoryview(b""), QUANTIZATION, budget)
    bits = (quantization["bits"] or [8])[-1]
    if not 1 <= bits <= 8:
        raise CheckpointError(path, f"tensor {name!r} has codes of {bits} bits", MEND)
    count = prod(shape) if shape and -(-prod(shape) * bits // 8) == len(stored) else len(stored) * 8 // bits
    lengths = _fitting(shape, count, path, name)
    if key == "int8":
        codes = LazyTensor.of(stored.view(np.int8).reshape(lengths), path, name)
    else:
        rows = unpacked(stored, bits, lengths, lambda c: c, highest_first=True)
        codes = LazyTensor(lengths, f"uint{bits}", rows, str(path), name)
    if quantization["table"]:
        table = np.array(read(quantization["table"][-1], TABLE, budget)["values"], np.float32)
        if table.size < 1 << bits:
            raise CheckpointError(path, f"tensor {name!r} has a table of {table.size} values for {bits} bits", MEND)
        return computed(codes, lambda c: table[c], f"quint{bits}")
    linear = read(quantization["linear"][-1] if quantization["linear"] else memoryview(b""), LINEAR, budget)
    scale, bias = (np.array(linear[part], np.float32) for part in ("scale", "bias"))
    if scale.size not in (1, lengths[0]) or bias.size not in (0, 1, lengths[0]):
        raise CheckpointError(path, f"the scales of tensor {name!r} do not fit it", MEND)
    wide = (-1, *(1,) * (len(lengths) - 1))
    scale, bias = (
        np.broadcast_to(part.reshape(-1), lengths[:1]).reshape(wide)
        for part in (scale, bias if bias.size else np.zeros(1, np.float32))
    )

    def values(start: int, stop: int) -> np.ndarray:
        return codes.read_rows(start, stop).astype(np.float32) * scale[start:stop] + bias[start:stop]

    return LazyTensor(lengths, f"quint{bits}", values, str(path), name)


def _fitting(shape: list[int] | None, count: int, path: Path, name: str) -> tuple[int, ...]:
    if shape is not None and min(shape, default=1) > 0 and prod(shape) == count:
        return checked_shape(shape, path, name)
    return (count,)
