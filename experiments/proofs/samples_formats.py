"""Samples of the formats that whole frameworks write: Keras, ONNX, TFLite, Flax, Orbax, GGUF, folders of the hub.

SAMPLES: name -> function(folder) that writes the file or folder and returns its path, as in
`experiments.proofs.samples`. They are written by the formats' own libraries where those are light.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import flax.serialization
import gguf
import h5py
import ml_dtypes
import numpy as np
import onnx
import orbax.checkpoint
import safetensors.numpy
import tflite
from onnx import TensorProto, helper, numpy_helper

from experiments.proofs.samples import registrar

SAMPLES: dict[str, Callable[[Path], Path]] = {}


sample = registrar(SAMPLES)


def arrays():
    """Kernels and biases of two layers, and a norm between them, in the layout of Keras and Flax."""
    rng = np.random.default_rng(0)
    shapes = {
        "dense/kernel": (4, 3),
        "dense/bias": (3,),
        **{f"bn/{name}": (3,) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
        "head/kernel": (3, 2),
        "head/bias": (2,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def layers():
    """The same arrays by layer."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays().items():
        layer, _, weight = name.partition("/")
        result.setdefault(layer, {})[weight] = array
    return result


KERAS_CONFIG = {
    "class_name": "Sequential",
    "config": {
        "name": "sequential",
        "layers": [
            {"class_name": "Dense", "config": {"name": "dense", "units": 3}},
            {"class_name": "BatchNormalization", "config": {"name": "bn"}},
            {"class_name": "Dense", "config": {"name": "head", "units": 2}},
        ],
    },
}


@sample("keras")
def keras_h5(folder):
    """A whole model as Keras 2 saves it."""
    path = folder / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(KERAS_CONFIG)
        file.attrs["keras_version"] = "2.15.0"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = np.array([b"dense", b"bn", b"head"])
        for layer, tensors in layers().items():
            group = weights.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{layer}/{name}:0".encode() for name in tensors])
            for name, array in tensors.items():
                group.create_dataset(f"{layer}/{name}:0", data=array)
        file.create_group("optimizer_weights").create_dataset("iteration:0", data=np.int64(3))
    return path


def numbered_weights(path):
    """Weights as Keras 3 saves them, one tensor in compressed chunks."""
    groups = {"dense": "dense", "bn": "batch_normalization", "head": "dense_1"}
    with h5py.File(path, "w") as file:
        for layer, tensors in layers().items():
            variables = file.create_group(f"layers/{groups[layer]}/vars")
            variables.attrs["name"] = layer
            for i, array in enumerate(tensors.values()):
                packing = {"chunks": (3, 2), "compression": "gzip", "shuffle": True} if array.shape == (4, 3) else {}
                variables.create_dataset(str(i), data=array, **packing)
        file.create_group("vars").attrs["name"] = "sequential"
        file.create_group("optimizer/vars").create_dataset("0", data=np.int64(3))
    return path


@sample("keras-weights")
def keras_weights(folder):
    return numbered_weights(folder / "model.weights.h5")


@sample("keras-archive")
def keras_archive(folder):
    path = folder / "model.keras"
    weights = numbered_weights(folder / "weights")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.10.0"}))
        archive.writestr("config.json", json.dumps(KERAS_CONFIG))
        archive.write(weights, "model.weights.h5")
    weights.unlink()
    return path


@sample("keras-quantized")
def keras_quantized(folder):
    """Layers of int8, of int4 in two groups, and of float8, as Keras 3 numbers their weights."""
    path = folder / "model.weights.h5"
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (4, 6)).astype(np.int8)
    group = np.array([0, 0, 1, 1], np.float32)
    scale, zero = rng.uniform(1, 2, (2, 3)).astype(np.float32), rng.integers(-8, 8, (2, 3)).astype(np.int8)
    history = [np.float32(1), np.ones(1024, np.float32)]
    variables = {
        "dense": (codes, np.ones(6, np.float32), np.arange(1, 7, dtype=np.float32)),
        "embedding": (codes, np.arange(1, 5, dtype=np.float32)),
        "dense_1": (codes[:, :2].copy(), np.ones(3, np.float32), scale, zero, group),
        "embedding_1": (codes[:3, :2].copy(), scale.T.copy(), zero.T.copy(), group),
        "einsum_dense": (codes.reshape(4, 2, 3), np.full((1, 1, 2, 3), 2, np.float32)),
        "dense_2": (np.ones((4, 6), np.float32), np.ones(6, np.float32), *history * 3),
    }
    with h5py.File(path, "w") as file:
        for key, arrays_ in variables.items():
            held = file.create_group(f"layers/{key}/vars")
            held.attrs["name"] = key
            for i, array in enumerate(arrays_):
                held.create_dataset(str(i), data=array)
    return path


def onnx_model(tensors, nodes, inputs=(("x", ["batch", 4]),), outputs=(("y", ["batch", 2]),)):
    """A ModelProto; tensors are TensorProtos or arrays by name."""
    x, y = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side] for side in (inputs, outputs))
    protos = [t if isinstance(t, TensorProto) else numpy_helper.from_array(t, name) for name, t in tensors.items()]
    return helper.make_model(
        helper.make_graph(nodes, "graph", x, y, protos), opset_imports=[helper.make_opsetid("", 18)]
    )


@sample("onnx")
def onnx_file(folder):
    """Two dense layers: float16 numbers in int32_data, a Constant, and a quantized matrix."""
    a = arrays()
    half = a["dense/bias"].astype(np.float16)
    tensors = {
        "w": a["dense/kernel"],
        "b": helper.make_tensor("b", TensorProto.FLOAT16, half.shape, half),
        "q": np.arange(-3, 3, dtype=np.int8).reshape(3, 2),
        "scale": np.array([0.5, 0.25], np.float32),
        "zero": np.array([1, -1], np.int8),
        "shape": np.array([-1, 3]),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="dense", alpha=0.5, transB=0),
        helper.make_node("Constant", [], ["slope"], value=numpy_helper.from_array(np.array([0.1], np.float32))),
        helper.make_node("PRelu", ["h", "slope"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["qf"], axis=1),
        helper.make_node("MatMul", ["f", "qf"], ["y"]),
    ]
    (folder / "model.onnx").write_bytes(onnx_model(tensors, nodes).SerializeToString())
    return folder / "model.onnx"


@sample("onnx-quantized")
def onnx_quantized_file(folder):
    """An integer product whose scale follows, a table of bytes, four bits in blocks, and branches."""
    codes = np.arange(-6, 6, dtype=np.int8)
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["m", "w"], ["o"])], name, [], [out], [numpy_helper.from_array(array, "w")]
        )
        for name, array in (("then", arrays()["head/kernel"]), ("else", arrays()["head/kernel"] + 1))
    }
    tensors = {
        **{
            "t": codes.astype(np.uint8).reshape(3, 4),
            "ts": np.float32(0.1),
            "tz": np.uint8(3),
            "ids": np.array([1, 2]),
        },
        **{
            "w": codes.reshape(4, 3),
            "ws": np.array([0.1, 0.2, 0.3], np.float32),
            "wz": np.int8(0),
            "c": np.array(True),
        },
        **{"n": np.arange(48, dtype=np.uint8).reshape(3, 2, 8), "ns": np.array(range(1, 7), np.float32)},
        "q": helper.make_tensor("q", TensorProto.INT4, [2, 3], range(-3, 3)),
        "qs": np.array([[1, 2], [3, 4]], np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["t", "ids"], ["g"]),
        node("DequantizeLinear", ["g", "ts", "tz"], ["e"]),
        node("DynamicQuantizeLinear", ["e"], ["xq", "xs", "xz"]),
        node("Mul", ["xs", "ws"], ["s"]),
        node("MatMulInteger", ["xq", "w", "xz", "wz"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["m"]),
        node("If", ["c"], ["b"], name="if", **branches),  # pyright: ignore[reportArgumentType]
        node("DequantizeLinear", ["q", "qs"], ["qf"], axis=1, block_size=2),
        node("MatMul", ["b", "qf"], ["p"]),
        node("MatMulNBits", ["p", "n", "ns"], ["y"], domain="com.microsoft", K=32, N=3, bits=4, block_size=16),
    ]
    (folder / "model.onnx").write_bytes(onnx_model(tensors, nodes).SerializeToString())
    return folder / "model.onnx"


@sample("onnx-external")
def onnx_external(folder):
    tensor = numpy_helper.from_array(arrays()["dense/kernel"], "w")
    model = onnx_model({"w": tensor}, [helper.make_node("MatMul", ["x", "w"], ["y"])])
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    return folder / "model.onnx"


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
        types = {"float32": 0, "float16": 1, "int32": 2, "int8": 9}
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


def train_state():
    """Parameters and statistics of a model, and the state of its training, as Flax keeps them."""
    a = layers()
    bn = a["bn"]
    return {
        "params": {
            "dense": {"kernel": a["dense"]["kernel"], "bias": a["dense"]["bias"].astype(ml_dtypes.bfloat16)},
            "bn": {"scale": bn["gamma"], "bias": bn["beta"]},
            "temperature": np.array(0.5, np.float32),
        },
        "batch_stats": {"bn": {"mean": bn["moving_mean"], "var": bn["moving_variance"]}},
        "opt_state": {"0": {"mu": {"kernel": a["dense"]["kernel"]}}},
        "step": np.array(3),
    }


@sample("flax_msgpack")
def flax_file(folder):
    (folder / "model.msgpack").write_bytes(flax.serialization.to_bytes(train_state()))
    return folder / "model.msgpack"


@sample("flax_msgpack-chunked")
def flax_chunked(folder):
    kernel = np.arange(12.0, dtype=np.float32)
    pieces = {"0": kernel[:5], "1": kernel[5:10], "2": kernel[10:]}
    array = {"__msgpack_chunked_array__": True, "shape": {"0": 4, "1": 3}, "chunks": pieces}
    (folder / "model.msgpack").write_bytes(flax.serialization.msgpack_serialize({"dense": {"kernel": array}}))
    return folder / "model.msgpack"


def orbax_folder(path, **options):
    """A checkpoint of `train_state`; options of the handler choose the store."""
    with orbax.checkpoint.Checkpointer(orbax.checkpoint.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path.absolute(), train_state())
    return path


@sample("orbax")
def orbax_ocdbt(folder):
    return orbax_folder(folder / "checkpoint", use_ocdbt=True)


@sample("orbax-files")
def orbax_files(folder):
    return orbax_folder(folder / "checkpoint", use_ocdbt=False)


@sample("orbax-shards")
def orbax_shards(folder):
    return orbax_folder(folder / "checkpoint", use_ocdbt=True, use_zarr3=True)


GGUF_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # those that the gguf package can write


@sample("gguf")
def gguf_file(folder):
    """A tensor of every simple type, and of one type of blocks with scales of scales."""
    rng = np.random.default_rng(0)
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e4)
    writer.add_token_list([f"token {i}" for i in range(2000)])
    writer.add_array("rope.sections", [1, 2, 3])
    matrix = rng.standard_normal((3, 64)).astype(np.float32)
    writer.add_tensor("plain.weight", matrix)
    writer.add_tensor("half.weight", matrix.astype(np.float16))
    writer.add_tensor("norm.weight", matrix[0])
    for name in GGUF_TYPES:
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(matrix, kind), raw_dtype=kind)
    kind = gguf.GGMLQuantizationType.Q4_K
    blocks = rng.integers(0, 60, (2, 144)).astype(np.uint8)  # small exponents: finite scales
    writer.add_tensor("Q4_K.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


CARD = """---
license: mit
tags: [vision, tiny]
---
# A model
"""


@sample("huggingface")
def hub_folder(folder):
    """A folder of the hub with the same weights twice."""
    path = folder / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "tiny", "num_attention_heads": 2}))
    (path / "README.md").write_text(CARD)
    (path / "model.safetensors").write_bytes(safetensors.numpy.save(arrays()))
    (path / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(layers()))
    return path
