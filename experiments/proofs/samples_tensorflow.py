"""Samples of TensorFlow: checkpoints, SavedModels, frozen graphs and TensorFlow.js, as in `experiments.proofs.samples`.

They are written byte by byte after the formats' own descriptions, since TensorFlow is heavy.
"""

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from experiments.proofs.protobuf_files import fixed32, message, varint
from experiments.proofs.samples import registrar, write
from experiments.proofs.samples_keras import KERAS_CONFIG, arrays
from wsrl.readers.crc32c import crc32c, masked

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)

NUMBERS = {"float32": 1, "int64": 9, "bfloat16": 14, "float16": 19}  # of types
STRING = 7


def guarded(content):
    """The checksum of bytes as TensorFlow stores it."""
    return masked(crc32c(np.frombuffer(content, np.uint8)))


def block(entries):
    """A block of a table, keys shortened by what they share with the one before."""
    result, last = b"", b""
    for key, value in entries:
        shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        result += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return result + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def table(entries):
    """A table of LevelDB with two blocks."""
    content, handles = b"", []
    entries = sorted(entries.items())
    for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
        handles.append((part[-1][0], varint(len(content)) + varint(len(block(part)))))
        content += sealed(block(part))
    ends = b""
    for part in ([], handles):
        ends += varint(len(content)) + varint(len(block(part)))
        content += sealed(block(part))
    return content + ends.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def sealed(content):
    """A block that is not compressed, with its checksum."""
    return content + b"\0" + guarded(content + b"\0").to_bytes(4, "little")


def shape_message(shape):
    """A TensorShapeProto."""
    return message(*((2, message((1, n))) for n in shape))


def bundle(path, tensors, texts=None, slices=None):
    """Writes a checkpoint.

    Args:
      path: without an ending.
      tensors: key -> array.
      texts: key -> bytes, tensors of one text.
      slices: key -> (shape, [(offset, key of the slice, array)]), variables in parts along their axes.
    """
    data, entries = b"", {b"": message((1, 1))}

    def store(key, content, number, shape):
        nonlocal data
        place = ((1, number), (2, shape_message(shape)), (4, len(data)), (5, len(content)))
        entries[key] = message(*place) + fixed32(6, guarded(content))
        data += content

    for key, array in tensors.items():
        store(key.encode(), array.tobytes(), NUMBERS[array.dtype.name], array.shape)
    for key, text in (texts or {}).items():
        length = varint(len(text))
        store(key.encode(), length + guarded(length).to_bytes(4, "little") + text, STRING, ())
    for key, (shape, parts) in (slices or {}).items():
        told = []
        for offset, part_key, array in parts:
            extents = [message((1, o), (2, n)) for o, n in zip(offset, array.shape, strict=True)]
            told.append((7, message(*((1, extent) for extent in extents))))
            store(part_key, array.tobytes(), NUMBERS[array.dtype.name], array.shape)
        entries[key.encode()] = message((1, 1), (2, shape_message(shape)), *told)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path.with_name(f"{path.name}.data-00000-of-00001"), data)
    return write(path.with_name(f"{path.name}.index"), table(entries))


@sample("tensorflow")
def checkpoint_file(folder):
    """A checkpoint as old programs save it: a variable in two parts, and state of an optimizer."""
    matrix = np.arange(35, dtype=np.float32).reshape(7, 5)
    keys = [b"\0w\0\1\1\2" + numbers for numbers in (b"\x80\x84\x80\x85", b"\x84\x83\x80\x85")]
    parts = [((0, 0), keys[0], matrix[:4]), ((4, 0), keys[1], matrix[4:])]
    tensors = {"b": np.ones(5, np.float32), "b/Adam": np.zeros(5, np.float32), "global_step": np.array(7)}
    tensors["h"] = np.ones((3, 2), ml_dtypes.bfloat16)
    return bundle(folder / "model.ckpt-7", tensors, slices={"w": ((7, 5), parts)})


@sample("tensorflow-saved_model")
def saved_model_folder(folder):
    """A SavedModel whose graph of objects names its variables, each listed twice."""
    value = "/.ATTRIBUTES/VARIABLE_VALUE"
    tensors, objects = {}, []
    for i, (name, array) in enumerate(arrays().items()):
        for key in (f"variables/{i}{value}", f"_all_variables/{i}{value}"):
            tensors[key] = array
            objects.append((1, message((2, message((1, "VARIABLE_VALUE"), (2, name), (3, key))))))
    tensors[f"optimizer/iter{value}"] = np.array(3)
    path = folder / "model"
    texts = {"_CHECKPOINTABLE_OBJECT_GRAPH": message(*objects)}
    bundle(path / "variables" / "variables", tensors, texts)
    write(path / "saved_model.pb", message((1, 1), (2, message((2, graph_message())))))
    return path


def constant(name, array, content=None):
    """A node that is a constant; its numbers lie in `tensor_content` or in another field."""
    number = (1, NUMBERS[array.dtype.name])
    stored = ((4, array.tobytes()),) if content is None else content
    tensor = message(number, (2, shape_message(array.shape)), *stored)
    value = message((1, "value"), (2, message((8, tensor))))
    return message((1, name), (2, "Const"), (5, value))


def frozen_graph():
    """A GraphDef of constants, one a number that is repeated, one of packed half floats."""
    half = np.array([1, 2.5], np.float16)
    nodes = [constant(f"net/{name}/ReadVariableOp/resource", array) for name, array in arrays().items()]
    nodes.append(constant("net/ones", np.ones(3, np.float32), ((5, np.float32(1).tobytes()),)))
    nodes.append(constant("net/half", half, ((13, half.view(np.uint16).tolist()),)))
    nodes.append(constant("net/shape", np.array([1, -1])))
    nodes.insert(0, message((1, "x"), (2, "Placeholder")))
    return graph_message(*nodes)


def graph_message(*nodes):
    """A GraphDef; its versions come last."""
    return message(*((1, node) for node in nodes), (4, message((1, 1882))))


@sample("tensorflow_graph")
def graph_file(folder):
    return write(folder / "frozen.pb", frozen_graph())


@sample("tensorflow_js")
def web_model(folder):
    """A model of layers in two files, one of its tensors in both; one is quantized, one is of texts."""
    tensors, content = [], b""
    for name, array in arrays().items():
        told = {"name": name, "shape": list(array.shape), "dtype": "float32"}
        if name == "head/kernel":
            array = (array * 16 + 100).astype(np.uint8)
            told["quantization"] = {"dtype": "uint8", "scale": 0.5, "min": -3.0, "original_dtype": "float32"}
        if name == "dense/bias":
            array = array.astype(np.float16)
            told["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        tensors.append(told)
        content += array.tobytes()
    tensors.append({"name": "words", "shape": [2], "dtype": "string"})
    content += b"".join(len(word).to_bytes(4, "little") + word for word in (b"a", b"bc"))
    paths = ["group1-shard1of2.bin", "group1-shard2of2.bin"]
    for path, part in zip(paths, (content[:30], content[30:]), strict=True):
        write(folder / path, part)
    model = {"format": "layers-model", "modelTopology": {"model_config": KERAS_CONFIG}}
    model["weightsManifest"] = [{"paths": paths, "weights": tensors}]
    return write(folder / "model.json", json.dumps(model).encode())


@sample("tensorflow_js-manifest")
def web_manifest(folder):
    write(folder / "net.bin", np.arange(6, dtype=np.float32).tobytes())
    weights = [{"name": "dense/kernel", "shape": [3, 2], "dtype": "float32"}]
    return write(folder / "net-manifest.json", json.dumps([{"weights": weights, "paths": ["net.bin"]}]).encode())
