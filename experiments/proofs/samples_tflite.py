"""Samples of TFLite, as in `experiments.proofs.samples`."""

from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import tflite

from experiments.proofs.samples import registrar

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)


class TfliteWriter:
    """Builds the tables of a TFLite file from plain values."""

    def __init__(self):
        self.builder = flatbuffers.Builder(1024)

    def table(self, name, **fields):
        """Writes a table; strings, arrays and lists of tables first, as the format asks."""
        b, written = self.builder, {}
        for key, value in fields.items():
            if isinstance(value, str):
                written[key] = b.CreateString(value)
            elif isinstance(value, np.ndarray):
                written[key] = b.CreateNumpyVector(value)
            elif isinstance(value, list):
                b.StartVector(4, len(value), 4)
                for offset in reversed(value):
                    b.PrependUOffsetTRelative(offset)
                written[key] = b.EndVector()
            else:
                written[key] = value
        getattr(tflite, f"{name}Start")(b)
        for key, value in written.items():
            getattr(tflite, f"{name}Add{key}")(b, value)
        return getattr(tflite, f"{name}End")(b)

    def model(self, weights, operators, codes):
        """Finishes a file.

        Args:
          weights: (name, array, (scale, zero point, axis) or None), and maybe the levels of a sparse array, see
            sparse_levels; values without an array are shapes.
          operators: (place among `codes`, inputs, outputs, (options, its fields) or None).
          codes: numbers of built-in operators.
        """
        buffers, tensors = [self.table("Buffer")], []
        types = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9}
        for name, array, quantization, *sparsity in weights:
            constant = isinstance(array, np.ndarray)
            fields = {"Name": name, "Shape": np.array(array.shape if constant else array, np.int32)}
            if constant:
                fields |= {"Buffer": len(buffers), "Type": types[array.dtype.name]}
                buffers.append(self.table("Buffer", Data=np.frombuffer(array.tobytes(), np.uint8)))
            if quantization:
                scale, zero, axis = quantization
                scales = {"Scale": np.array(scale, np.float32), "ZeroPoint": np.array(zero, np.int64)}
                fields["Quantization"] = self.table("QuantizationParameters", **scales, QuantizedDimension=axis)
            for shape, levels in sparsity:
                fields |= {
                    "Shape": np.array(shape, np.int32),
                    "Sparsity": self.table("SparsityParameters", **levels(self)),
                }
            tensors.append(self.table("Tensor", **fields))
        nodes = []
        for code, inputs, outputs, options in operators:
            fields = {"OpcodeIndex": code, "Inputs": np.array(inputs, np.int32), "Outputs": np.array(outputs, np.int32)}
            if options:
                kind, values = options
                number = getattr(tflite.BuiltinOptions, kind)
                fields |= {"BuiltinOptionsType": number, "BuiltinOptions": self.table(kind, **values)}
            nodes.append(self.table("Operator", **fields))
        operator_codes = [self.table("OperatorCode", DeprecatedBuiltinCode=code, BuiltinCode=code) for code in codes]
        ends = {"Inputs": np.array([0], np.int32), "Outputs": np.array([len(weights) - 1], np.int32)}
        graph = self.table("SubGraph", Tensors=tensors, Operators=nodes, **ends)
        root = self.table("Model", Version=3, OperatorCodes=operator_codes, Subgraphs=[graph], Buffers=buffers)
        self.builder.Finish(root, b"TFL3")
        return bytes(self.builder.Output())


def sparse_levels(dense, order, blocks, formats):
    """The entries of a sparse array that are stored, and what writes its table SparsityParameters.

    Args:
      dense: the array.
      order: axes of the levels; those behind the array's own are parts of blocks.
      blocks: axis -> size of a block.
      formats: of the levels, 0 dense, 1 sparse.
    """
    shape = [n // blocks.get(axis, 1) for axis, n in enumerate(dense.shape)]
    split = [n for axis, n in enumerate(shape) for n in ([n, blocks[axis]] if axis in blocks else [n])]
    at, outer, inner = 0, [], []
    for axis in range(dense.ndim):
        outer.append(at)
        inner += [at + 1] if axis in blocks else []
        at += 2 if axis in blocks else 1
    parts = [dense.reshape(split).transpose([*outer, *inner]).transpose(order)]
    tables = []
    for kind in formats:
        size = parts[0].shape[0]
        if kind == 0:
            parts = [part[i] for part in parts for i in range(size)]
            tables.append({"Format": 0, "DenseSize": size})
            continue
        kept = [[i for i in range(size) if np.any(part[i])] for part in parts]
        segments, indices = np.cumsum([0, *map(len, kept)]), [i for part in kept for i in part]
        parts = [part[i] for part, places in zip(parts, kept, strict=True) for i in places]
        tables.append({"Format": 1, "Segments": segments, "Indices": indices})

    def write(writer):
        levels = []
        for table in tables:
            fields = {key: value for key, value in table.items() if key in ("Format", "DenseSize")}
            for key in ("Segments", "Indices") if table["Format"] else ():
                vector = writer.table("Int32Vector", Values=np.array(table[key], np.int32))
                fields |= {f"Array{key}": vector, f"Array{key}Type": 1}
            levels.append(writer.table("DimensionMetadata", **fields))
        arrays = {"TraversalOrder": np.array(order, np.int32), "BlockMap": np.array(list(blocks), np.int32)}
        return arrays | {"DimMetadata": levels}

    return np.array(parts, dense.dtype), write


@sample("tflite-sparse")
def tflite_sparse_file(folder):
    """Two sparse matrices, one of blocks and dequantized, that DENSIFY makes dense."""
    codes = [tflite.BuiltinOperator.DENSIFY, tflite.BuiltinOperator.FULLY_CONNECTED]
    plain, write_plain = sparse_levels(sparse_matrix(np.float16), [0, 1], {}, [0, 1])
    blocked, write_blocked = sparse_levels(sparse_matrix(np.int8), [0, 1, 2, 3], {0: 2, 1: 2}, [0, 1, 0, 0])
    weights = [
        ("x", (1, 6), None),
        ("w", plain, None, ((4, 6), write_plain)),
        ("wd", (4, 6), None),
        ("q", blocked, ([0.5], [0], 0), ((4, 6), write_blocked)),
        ("qd", (4, 6), None),
        ("h", (1, 4), None),
        ("y", (1, 4), None),
    ]
    operators = [(0, [1], [2], None), (0, [3], [4], None), (1, [0, 2, -1], [5], None), (1, [0, 4, -1], [6], None)]
    (folder / "model.tflite").write_bytes(TfliteWriter().model(weights, operators, codes))
    return folder / "model.tflite"


def sparse_matrix(dtype):
    """A matrix whose entries are mostly zero."""
    dense = np.zeros((4, 6), dtype)
    dense[[0, 0, 1, 3], [1, 4, 5, 2]] = [3, -2, 7, 1]
    return dense


@sample("tflite")
def tflite_file(folder):
    """A convolution with int8 weights per channel, a reshape and a dense layer with float16 weights."""
    rng = np.random.default_rng(0)
    weights = [
        ("x", (1, 4, 4, 3), None),
        ("conv/kernel", rng.integers(-127, 128, (2, 3, 3, 3)).astype(np.int8), ([0.5, 0.25], [0, 0], 0)),
        ("conv/bias", np.array([4, -8], np.int32), ([0.125], [], 0)),
        ("h", (1, 4, 4, 2), None),
        ("shape", np.array([-1, 32], np.int32), None),
        ("f", (1, 32), None),
        ("head/kernel", rng.standard_normal((2, 32)).astype(np.float16), None),
        ("head/kernel32", (2, 32), None),
        ("y", (1, 2), None),
    ]
    b = tflite.BuiltinOperator
    codes = [b.CONV_2D, b.RESHAPE, b.DEQUANTIZE, b.FULLY_CONNECTED]
    conv = {"Padding": tflite.Padding.SAME, "StrideW": 1, "StrideH": 1}
    operators = [
        (0, [0, 1, 2], [3], ("Conv2DOptions", conv | {"FusedActivationFunction": tflite.ActivationFunctionType.RELU})),
        (1, [3, 4], [5], ("ReshapeOptions", {"NewShape": np.array([-1, 32], np.int32)})),
        (2, [6], [7], None),
        (3, [5, 7, -1], [8], ("FullyConnectedOptions", {})),
    ]
    (folder / "model.tflite").write_bytes(TfliteWriter().model(weights, operators, codes))
    return folder / "model.tflite"
