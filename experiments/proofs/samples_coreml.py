"""Samples of Core ML, as in `experiments.proofs.samples`, written after the messages that its proto files describe."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.proofs.protobuf_files import message
from experiments.proofs.samples import registrar, write

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)

KINDS = {"float16": 10, "float32": 11, "int8": 21, "int32": 23, "uint8": 31, "uint32": 33, "bool": 1}
UINT3, UINT4, INT4, TEXT = 39, 35, 25, 2


def value_type(kind, shape):
    """A ValueType of a tensor."""
    lengths = ((3, message((1, message((1, n))))) for n in shape)
    return message((1, message((1, kind), (2, len(shape)), *lengths)))


def immediate(array):
    """A Value that lies within the program."""
    field = {"float32": 1, "int32": 2, "bool": 3}.get(array.dtype.name, 7)
    stored = array.reshape(-1).tolist() if field in (2, 3) else array.tobytes()
    tensor = message((field, message((1, stored))))
    return message((2, value_type(KINDS[array.dtype.name], array.shape)), (3, message((1, tensor))))


def text(value):
    """A Value that is a text."""
    return message((2, value_type(TEXT, ())), (3, message((1, message((4, message((1, value))))))))


class ProgramWriter:
    """Builds an ML program and its file of blobs."""

    def __init__(self):
        self.operations = []
        self.blobs = bytearray(b"\2\0\0\0\2\0\0\0".ljust(64, b"\0"))

    def blob(self, content, kind, shape):
        """A Value that lies in the file of blobs."""
        offset = len(self.blobs)
        head = b"\xef\xbe\xad\xde" + (1).to_bytes(4, "little") + len(content).to_bytes(8, "little")
        self.blobs += (head + (offset + 64).to_bytes(8, "little")).ljust(64, b"\0") + content
        self.blobs += bytes(-len(self.blobs) % 64)
        place = message((1, "@model_path/weights/weight.bin"), (2, offset))
        return message((2, value_type(kind, shape)), (5, place))

    def array(self, array):
        """A Value of an array among the blobs."""
        return self.blob(array.tobytes(), KINDS[array.dtype.name], array.shape)

    def constant(self, name, value, kind, shape):
        """Adds a constant."""
        self.add("const", name, kind, shape, {}, {"val": value})

    def add(self, operation, name, kind, shape, inputs, attributes=None):
        """Adds an operation whose inputs are names of others or Values."""
        fields = [(1, operation)]
        for key, given in inputs.items():
            binding = message((1, given) if isinstance(given, str) else (2, given))
            fields.append((2, message((1, key), (2, message((1, binding))))))
        fields.append((3, message((1, name), (2, value_type(kind, shape)))))
        fields += [(5, message((1, key), (2, value))) for key, value in (attributes or {}).items()]
        self.operations.append(message(*fields))

    def program(self, output):
        """A Model of what was added."""
        block = message((2, output), *((3, operation) for operation in self.operations))
        inputs = message((1, "x"), (2, value_type(KINDS["float32"], (1, 3, 8, 8))))
        function = message((1, inputs), (2, "CoreML7"), (3, message((1, "CoreML7"), (2, block))))
        program = message((1, 1), (2, message((1, "main"), (2, function))))
        return message((1, 8), (2, message((1, message((1, "x"))))), (502, program))


def package(path, model, blobs):
    """Writes a package."""
    inner = path / "Data" / "com.apple.CoreML"
    (inner / "weights").mkdir(parents=True)
    write(inner / "model.mlmodel", model)
    write(inner / "weights" / "weight.bin", bytes(blobs))
    item = {"path": "com.apple.CoreML/model.mlmodel", "name": "model.mlmodel"}
    manifest = {"fileFormatVersion": "1.0.0", "rootModelIdentifier": "A", "itemInfoEntries": {"A": item}}
    write(path / "Manifest.json", json.dumps(manifest).encode())
    return path


def packed_bits(codes, bits):
    """Codes one after the other, the lowest bits first."""
    single = codes.reshape(-1)[:, None].astype(np.uint8) >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(single.reshape(-1), bitorder="little").tobytes()


def numbers():
    """Codes and tables of the sample's weights."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((8, 4)).astype(np.float16)
    return {
        "conv": rng.standard_normal((4, 3, 3, 3)).astype(np.float16),
        "bias": np.arange(4, dtype=np.float32),
        "codes": rng.integers(0, 8, (6, 4)),
        "table": rng.standard_normal((2, 1, 8, 1)).astype(np.float16),
        "int4": rng.integers(-8, 8, (8, 6)),
        "scale": rng.uniform(0.5, 2, (8, 2)).astype(np.float16),
        "sparse": np.where(rng.random((8, 4)) < 0.5, dense, 0).astype(np.float16),
        "int8": rng.integers(-127, 128, (8, 4)).astype(np.int8),
        "old scale": rng.uniform(0.5, 2, 8).astype(np.float32),
    }


@sample("coreml")
def program_package(folder):
    """A program whose weights are compressed in all ways."""
    a, net, half = numbers(), ProgramWriter(), KINDS["float16"]
    net.constant("strides", immediate(np.ones(2, np.int32)), KINDS["int32"], (2,))
    net.constant("same", text("same"), TEXT, ())
    net.constant("conv_w", net.array(a["conv"]), half, (4, 3, 3, 3))
    given = {"weight": "conv_w", "bias": immediate(a["bias"]), "strides": "strides", "pad_type": "same"}
    net.add("conv", "c", half, (1, 4, 8, 8), {"x": "x", **given})
    net.add("relu", "r", half, (1, 4, 8, 8), {"x": "c"})
    axes = immediate(np.array([2, 3], np.int32))
    net.add("reduce_mean", "m", half, (1, 4), {"x": "r", "axes": axes, "keep_dims": immediate(np.array(False))})
    codes = net.blob(packed_bits(a["codes"], 3), UINT3, (6, 4))
    net.add("constexpr_lut_to_dense", "w1", half, (6, 4), {"indices": codes, "lut": net.array(a["table"])})
    net.add("linear", "l", half, (1, 6), {"x": "m", "weight": "w1"})
    data, scale = net.blob(packed_bits(a["int4"] & 15, 4), INT4, (8, 6)), net.array(a["scale"])
    net.add("constexpr_blockwise_shift_scale", "w2", half, (8, 6), {"data": data, "scale": scale})
    net.add("matmul", "y", half, (1, 8), {"x": "l", "y": "w2", "transpose_y": immediate(np.array(True))})
    return package(folder / "model.mlpackage", net.program("y"), net.blobs)


@sample("coreml-old")
def old_program_package(folder):
    """The operators of iOS 16, which hold their parts as attributes."""
    a, net, half = numbers(), ProgramWriter(), KINDS["float16"]
    shape, table = immediate(np.array([6, 4], np.uint32)), a["table"][0, 0, :, 0]
    parts = {"indices": net.array(np.frombuffer(packed_bits(a["codes"], 3), np.uint8)), "lut": net.array(table)}
    net.add("constexpr_lut_to_dense", "w1", half, (6, 4), {}, {**parts, "shape": shape})
    mask = net.array(np.frombuffer(packed_bits(a["sparse"] != 0, 1), np.uint8))
    stored = net.array(a["sparse"][a["sparse"] != 0])
    shape = immediate(np.array([8, 4], np.uint32))
    net.add("constexpr_sparse_to_dense", "w2", half, (8, 4), {}, {"nonzero_data": stored, "mask": mask, "shape": shape})
    parts = {"quantized_data": net.array(a["int8"]), "zero_point": immediate(np.array(1, np.int8))}
    parts |= {"scale": net.array(a["old scale"]), "axis": immediate(np.array(0, np.int32))}
    net.add("constexpr_affine_dequantize", "w3", half, (8, 4), {}, parts)
    return package(folder / "model.mlpackage", net.program("w3"), net.blobs)


@sample("coreml-network")
def network_file(folder):
    """A neural network of the old form, in a pipeline: floats, half floats, linear codes and a table."""
    a = numbers()
    single = a["codes"].reshape(-1)[:, None] >> np.arange(3)[::-1] & 1
    codes = np.packbits(single.reshape(-1).astype(np.uint8)).tobytes()
    table = a["table"][0, 0, :, 0].astype(np.float32)
    looked_up = message((30, codes), (40, message((1, 3), (102, message((1, table.tobytes()))))))
    linear = message((101, message((1, a["old scale"].tobytes()), (2, a["old scale"].tobytes()))))
    scaled = message((30, a["int8"].view(np.uint8).tobytes()), (40, message((1, 8)) + linear))
    sizes, kernel = ((1, 4), (2, 3), (10, 1)), (20, [3, 3])
    convolution = message(
        *sizes, kernel, (90, message((2, a["conv"].tobytes()))), (91, message((1, a["bias"].tobytes())))
    )
    layers = [message((1, "conv"), (100, convolution)), message((1, "relu"), (130, message((10, b""))))]
    layers.append(message((1, "dense"), (140, message((1, 4), (2, 6), (20, looked_up)))))
    layers.append(message((1, "head"), (140, message((1, 4), (2, 8), (20, scaled)))))
    network = message(*((1, layer) for layer in layers))
    description = (2, message((1, message((1, "x")))))
    inner = message((1, 1), description, (500, network))
    model = message((1, 1), description, (202, message((1, inner), (1, message((1, 1), description, (302, b""))))))
    return write(folder / "model.mlmodel", model)
