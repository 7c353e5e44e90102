"""A small valid file of every format that the readers know, with the tensors that it holds.

SAMPLES: name -> function(folder) that writes the file or folder and returns its path. A sample named `reader` or
`reader-variant` belongs to the module wsrl.readers.<reader>.
"""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
from numpy.typing import DTypeLike

from experiments.proofs import torch_files

SAMPLES: dict[str, Callable[[Path], Path]] = {}


def registrar(samples):
    """Returns a decorator that enters a writer by a name; it gets a folder that exists."""

    def sample(name):
        def enter(write):
            samples[name] = write
            return write

        return enter

    return sample


sample = registrar(SAMPLES)


def arrays(dtype: DTypeLike = np.float32):
    """A small network's tensors, and a counter."""
    rng = np.random.default_rng(0)
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "norm.weight": (4,), "fc.weight": (5, 4), "fc.bias": (5,)}
    result = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return result | {"temperature": np.array(2.0, dtype), "norm.num_batches_tracked": np.array(7)}


def write(path, content):
    """Writes bytes and returns the path."""
    path.write_bytes(content)
    return path


@sample("safetensors")
def safetensors_file(folder):
    return write(folder / "model.safetensors", safetensors.numpy.save(arrays(), {"activation": "relu"}))


@sample("safetensors-quantized")
def quantized_file(folder):
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.integers(-127, 128, (6, 4)).astype(np.int8),
        "a.weight_scale": rng.uniform(0.1, 1, (6, 1)).astype(np.float32),
        "b.weight": rng.standard_normal((6, 4)).astype(ml_dtypes.float8_e4m3fn),
        "b.weight_scale": np.array(0.5, ml_dtypes.bfloat16),
    }
    return write(folder / "model.safetensors", safetensors.numpy.save(tensors))


@sample("sharded")
def sharded_files(folder):
    tensors = arrays()
    names = list(tensors)
    weight_map = {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        write(folder / file, safetensors.numpy.save({name: tensors[name] for name in part}))
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 600}, "weight_map": weight_map}
    return write(folder / "model.safetensors.index.json", json.dumps(index).encode())


@sample("pytorch")
def pytorch_file(folder):
    value, storages = torch_files.state_dict(arrays())
    training = {"epoch": 3, "model": value, "optimizer": {"lr": 0.1, "seen": {1, 2}}, "names": ("a", None, True)}
    return write(folder / "model.pt", torch_files.zip_bytes(training, storages))


@sample("pytorch-deflated")
def deflated_file(folder):
    value, storages = torch_files.state_dict(arrays(ml_dtypes.bfloat16))
    return write(folder / "model.pt", torch_files.zip_bytes(value, storages, compression=zipfile.ZIP_DEFLATED))


@sample("pytorch-script")
def script_file(folder):
    value, storages = torch_files.state_dict(arrays())
    pairs = {name: item for name, item in value.arguments[0]}
    attributes = {"training": False, "conv": torch_files.script_module({"weight": pairs["conv.weight"]})} | pairs
    module = torch_files.script_module(attributes | {"conv.weight": None})
    return write(folder / "model.pt", torch_files.zip_bytes(module, storages, script=True))


@sample("pytorch-module")
def module_file(folder):
    """A whole module with two names for one storage, and settings beside it."""
    value, storages = torch_files.state_dict(arrays())
    tensors = dict(value.arguments[0]) | {"tied": value.arguments[0][0][1]}
    name = torch_files.Name
    state = {"training": True, "_parameters": tensors, "_buffers": {}, "_modules": {}}
    partial = torch_files.Call(name("functools", "partial"), (name("torch.optim", "Adam"),))
    saved = {"model": torch_files.Call(name("acme", "Net"), (), state), "extra": {("a", "b"): partial}}
    return write(folder / "model.pt", torch_files.zip_bytes(saved, storages))


@sample("torch_export")
def exported_file(folder):
    """Weights as torch.export keeps them: a matrix, a transposed view of it and a complex vector."""
    matrix, vector = np.arange(6, dtype=np.float32), np.arange(4, dtype=np.complex64)
    entries = {
        "w": ("weight_0", 7, [2, 3], [3, 1]),
        "tied": ("weight_0", 7, [3, 2], [1, 3]),
        "c": ("weight_1", 10, [4], [1]),
    }
    config = {}
    for name, (key, kind, sizes, strides) in entries.items():
        whole = {"sizes": sizes, "strides": strides, "storage_offset": [0]}
        meta = {part: [{"as_int": n} for n in values] for part, values in whole.items()}
        meta |= {"dtype": kind, "storage_offset": meta["storage_offset"][0]}
        config[name] = {"path_name": key, "is_param": True, "use_pickle": False, "tensor_meta": meta}
    config["pickled"] = {"path_name": "weight_2", "is_param": True, "use_pickle": True, "tensor_meta": None}
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        archive.writestr("model/data/weights/model_weights_config.json", json.dumps({"config": config}))
        archive.writestr("model/data/weights/weight_0", matrix.tobytes())
        archive.writestr("model/data/weights/weight_1", vector.tobytes())
    return folder / "model.pt2"


@sample("torch_distributed")
def distributed_folder(folder):
    """A folder of torch.distributed.checkpoint: a matrix in three pieces, a vector, and state of an optimizer."""
    (path := folder / "step-7").mkdir()
    matrix, vector = np.arange(20, dtype=np.float32).reshape(4, 5), np.ones(3, np.float32)
    pieces = [
        ("model.w", (0, 0), matrix[:1]),
        ("model.w", (1, 0), matrix[1:, :2]),
        ("model.w", (1, 2), matrix[1:, 2:]),
        ("model.b", (0,), vector),
        ("optimizer.state.w", (0,), vector),
    ]
    content, stored = b"", {}
    name = torch_files.Name
    where = "torch.distributed.checkpoint.metadata"
    for fqn, offset, array in pieces:
        array = np.ascontiguousarray(array)
        data = torch_files.zip_bytes(torch_files.tensor(array, 0), [torch_files.storage(array, 0)])
        size = torch_files.Call(name("torch", "Size"), (offset,))
        index = torch_files.Call(name(where, "MetadataIndex"), (), {"fqn": fqn, "offset": size, "index": 0})
        place = {"relative_path": "__0_0.distcp", "offset": len(content), "length": len(data)}
        stored[index] = torch_files.Call(name("torch.distributed.checkpoint.filesystem", "_StorageInfo"), (), place)
        content += data
    shapes = {"model.w": (4, 5), "model.b": (3,), "optimizer.state.w": (3,)}
    tensors = {
        fqn: torch_files.Call(
            name(where, "TensorStorageMetadata"), (), {"size": torch_files.Call(name("torch", "Size"), (shape,))}
        )
        for fqn, shape in shapes.items()
    }
    tensors["step"] = torch_files.Call(name(where, "BytesStorageMetadata"), ())
    state = {"state_dict_metadata": tensors, "planner_data": {}, "storage_data": stored}
    write(path / ".metadata", torch_files.dumps(torch_files.Call(name(where, "Metadata"), (), state)))
    write(path / "__0_0.distcp", content)
    return path


@sample("containers")
def zip_of_a_file(folder):
    with zipfile.ZipFile(folder / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("best")
        archive.writestr("best/config.json", '{"model_type": "net"}')
        archive.writestr("best/model.safetensors", safetensors.numpy.save(arrays()))
    return folder / "model.zip"


def tar_of_a_file(path, mode):
    members = {"./model_config.yaml": b"a: 1", "./model.ckpt": torch_files.zip_bytes(*torch_files.state_dict(arrays()))}
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            (info := tarfile.TarInfo(name)).size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@sample("containers-tar")
def nemo_file(folder):
    return tar_of_a_file(folder / "model.nemo", "w")


@sample("containers-gzip")
def gzip_file(folder):
    return tar_of_a_file(folder / "model.tar.gz", "w:gz")


@sample("parts")
def parts_folder(folder):
    """A split model whose index is missing."""
    (path := folder / "model").mkdir()
    tensors = arrays()
    for number, names in enumerate((list(tensors)[:3], list(tensors)[3:]), 1):
        content = safetensors.numpy.save({name: tensors[name] for name in names})
        write(path / f"model-{number:05}-of-00002.safetensors", content)
    return path


@sample("pytorch_legacy")
def legacy_file(folder):
    return write(folder / "model.pt", torch_files.legacy_bytes(*torch_files.state_dict(arrays())))


@sample("pytorch_legacy-pickle")
def pickle_file(folder):
    return write(folder / "model.pkl", pickle.dumps({"model": arrays()}, protocol=4))


@sample("stable_baselines3")
def agent_file(folder):
    policy = torch_files.zip_bytes(*torch_files.state_dict(arrays()), root="policy")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        settings = {"gamma": 0.99, "policy_class": {":type:": "<class>", ":serialized:": "gAWVBgAAAAAAAACMAm9zlC4="}}
        archive.writestr("data", json.dumps(settings))
        archive.writestr("policy.optimizer.pth", policy)
        archive.writestr("policy.pth", policy)
        archive.writestr("_stable_baselines3_version", "2.3.0")
    return write(folder / "agent.zip", file.getvalue())


@sample("npz")
def npz_file(folder):
    np.savez(folder / "model.npz", **arrays(), fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)))  # pyright: ignore[reportArgumentType]
    return folder / "model.npz"


@sample("npz-compressed")
def compressed_npz_file(folder):
    np.savez_compressed(folder / "model.npz", **arrays(np.float16))  # pyright: ignore[reportArgumentType]
    return folder / "model.npz"


def perceptron_file(path, seed):
    """A network for images of 28 x 28 in ten classes, named as torch.nn.Sequential names it."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for i, (fan_in, units) in enumerate([(784, 64), (64, 64), (64, 10)]):
        tensors[f"{2 * i}.weight"] = rng.normal(size=(units, fan_in)).astype(np.float32)
        tensors[f"{2 * i}.bias"] = rng.normal(size=units).astype(np.float32)
    safetensors.numpy.save_file(tensors, path)
