"""Samples of Keras, as in `experiments.proofs.samples`."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

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


@sample("keras-shards")
def keras_shards(folder):
    """Weights as Keras 3 splits them; those of one layer lie in both files."""
    layers_, weight_map = layers(), {}
    parts = ({"dense": (0, 1), "bn": (0, 1)}, {"bn": (2, 3), "head": (0, 1)})
    keys = {"dense": "dense", "bn": "batch_normalization", "head": "dense_1"}
    for number, part in enumerate(parts):
        name = f"model_{number:05}.weights.h5"
        with h5py.File(folder / name, "w") as file:
            for layer, places in part.items():
                held = file.create_group(f"layers/{keys[layer]}/vars")
                held.attrs["name"] = layer
                for place in places:
                    held.create_dataset(str(place), data=list(layers_[layer].values())[place])
                weight_map.setdefault(f"/layers/{keys[layer]}/vars", []).append(name)
    path = folder / "model.weights.json"
    path.write_text(json.dumps({"metadata": {"total_size": 100}, "weight_map": weight_map}))
    return path
