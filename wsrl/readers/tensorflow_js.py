"""Reads models of TensorFlow.js: `model.json` of layers or of a graph, and bare manifests of weights.

The layout: https://github.com/tensorflow/tfjs, `tfjs-core/src/io/types.ts`. A manifest lists groups; the files of a
group are one stretch of bytes, in which its tensors lie without gaps.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.readers.budget import Budget
from wsrl.readers.derived import computed
from wsrl.readers.json_files import LIMIT, parse_json_object
from wsrl.readers.links import file_beside
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, map_file
from wsrl.readers.tensorflow_graph import few_integers
from wsrl.readers.tensorflow_js_graph import read_steps, signature_outputs
from wsrl.readers.tensorflow_operators import Step, translated

DTYPES = {
    **{name: np.dtype(name) for name in ("float32", "float16", "int32", "uint8", "uint16", "int8", "int16", "bool")},
    **{"complex64": np.dtype(np.complex64)},
}
MANIFEST, TOPOLOGY = "weightsManifest", "modelTopology"
LIST = (b'"weights"', b'"paths"', b'"shape"')  # of which a bare manifest shows two early on
MEND = "convert or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is JSON that has a manifest of weights, or is one."""
    text = head.lstrip()
    if text[:1] == b"[":
        return sum(word in head for word in LIST) >= 2
    told = f'"{MANIFEST}"'.encode() in head or f'"{TOPOLOGY}"'.encode() in head
    return text[:1] == b"{" and (told or b'"graph-model"' in head or b'"layers-model"' in head)


def open_file(path: Path) -> Checkpoint:
    """Opens a model; the files that its manifest names must lie in its folder or below.

    The metadata has `keras_config` or `graph` if the file holds one.

    Raises:
      CheckpointError: the JSON is not well-formed, a file is missing, or tensors do not fill the files.
    """
    text = map_file(path)[: LIMIT + 1].tobytes()
    text = text if text.lstrip()[:1] == b"{" else b'{"%s":%s}' % (MANIFEST.encode(), text)
    model = parse_json_object(text, path, "the file")
    groups = model.get(MANIFEST)
    if not isinstance(groups, list):
        raise CheckpointError(path, "names no weights", "give the model.json of a model with weights")
    tensors: dict[str, LazyTensor] = {}
    left_out: list[str] = []
    for group in groups:
        match group:
            case {"paths": [*names], "weights": [*weights]}:
                stretch = _Stretch([file_beside(name, path) for name in names])
            case _:
                raise CheckpointError(path, "its manifest of weights is not well-formed", MEND)
        budget = Budget(path, len(text))
        for name, tensor in _tensors(list(budget.each(weights)), stretch, path):
            if name in tensors:
                raise CheckpointError(path, f"two tensors are called {name!r}", MEND)
            if tensor is None:
                left_out.append(name)
            else:
                tensors[name] = tensor
    topology = model.get(TOPOLOGY)
    config = topology.get("model_config", topology) if isinstance(topology, dict) else None
    told: dict[str, object] = {"left_out": tuple(left_out), "framework": "tensorflow.js"}
    if isinstance(config, dict) and "class_name" in config:
        told["keras_config"] = config
    elif isinstance(topology, dict):
        steps = read_steps(topology, Budget(path, len(text)))
        names = {step.name: step.name for step in steps if step.op == "Const" and step.name in tensors}
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        served = Step("", "NoOp", signature_outputs(model.get("signature")), {})
        graph = translated([*steps, served], names, shapes, few_integers(tensors), grouped=False)  # it has none
        told |= {"graph": graph} if graph is not None else {}
    return Checkpoint(str(path), tensors, told)


class _Stretch:
    """The files of a group as one stretch of bytes."""

    def __init__(self, files: list[Path]):
        self.parts = [map_file(file) for file in files if file.stat().st_size]
        self.ends = np.cumsum([len(part) for part in self.parts]).tolist()
        self.size = self.ends[-1] if self.ends else 0

    def read(self, start: int, stop: int) -> Bytes:
        """Returns bytes; copied only where they lie in several files."""
        found = []
        number = bisect_right(self.ends, start)
        while start < stop and number < len(self.parts):
            begin = self.ends[number] - len(self.parts[number])
            found.append(self.parts[number][start - begin : stop - begin])
            start, number = self.ends[number], number + 1
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.uint8), *found])


def _tensors(weights: list, stretch: _Stretch, path: Path) -> Iterator[tuple[str, LazyTensor | None]]:
    """Yields names and tensors of a group; None for texts."""
    at = 0
    for weight in weights:
        match weight:
            case {"name": name, "shape": shape, "dtype": str(kind), **rest}:
                name = checked_name(name, path)
                shape = checked_shape(shape, path, name)
            case _:
                raise CheckpointError(path, "its manifest of weights is not well-formed", MEND)
        if kind == "string":
            for _ in range(min(prod(shape), stretch.size - at)):  # each with its length before it
                at += 4 + int.from_bytes(stretch.read(at, at + 4).tobytes(), "little")
            yield name, None
            continue
        stored, scale, least = _storage(kind, rest.get("quantization"), path, name)
        size = prod(shape) * stored.itemsize
        if at + size > stretch.size:
            raise CheckpointError(path, f"tensor {name!r} ends beyond its files", "download all of its files again")
        tensor = LazyTensor(shape, stored.name, partial(_rows, stretch, at, stored, shape), str(path), name)
        if scale is not None:
            tensor = computed(tensor, partial(_scaled, scale, least), f"q{stored.name}")
        at += size
        yield name, tensor
    if at != stretch.size:
        raise CheckpointError(path, f"{stretch.size - at} bytes of its files belong to no tensor", MEND)


def _storage(kind: str, quantization: object, path: Path, name: str) -> tuple[np.dtype, np.float32 | None, np.float32]:
    """How a tensor is stored: the type, and the scale and the least value of quantized ones."""
    scale, least = None, np.float32(0)
    match quantization:
        case {"dtype": "float16"}:
            kind = "float16"
        case {"dtype": ("uint8" | "uint16") as kind, "scale": int() | float() as step, "min": int() | float() as low}:
            with np.errstate(over="ignore"):
                scale, least = np.float32(step), np.float32(low)
        case None:
            pass
        case _:
            raise CheckpointError(path, f"tensor {name!r} is quantized in an unknown way", MEND)
    if kind not in DTYPES:
        raise CheckpointError(path, f"tensor {name!r} is of the unknown type {kind!r:.40}", MEND)
    return DTYPES[kind], scale, least


def _scaled(scale: np.float32, least: np.float32, codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.float32) * scale + least


def _rows(stretch: _Stretch, at: int, dtype: np.dtype, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    start, stop, _ = slice(start, stop).indices(shape[0] if shape else 1)
    inner = prod(shape[1:]) * dtype.itemsize
    stop = max(start, stop)
    return stretch.read(at + start * inner, at + stop * inner).view(dtype).reshape(stop - start, *shape[1:])
