"""Networks of a zoo in many forms, as files that tell nothing of it: copies, and networks that only look like some."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy

from experiments.tables.identity import as_pytorch, four_bits, permuted
from wsrl.checkpoint import Checkpoint
from wsrl.comparison.relation import Kind
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry
from wsrl.zoo.copies import add_noise, prune, quantize
from wsrl.zoo.load import StoredCheckpoints
from wsrl.zoo.manifest import Record

Tensors = Mapping[str, np.ndarray]
Make = Callable[[Checkpoint, np.random.Generator], Tensors]
STEP = 1e-4  # that Adam's first step moves each number by, at this learning rate


@dataclasses.dataclass(frozen=True)
class Written:
    """What a file holds.

    Attributes:
      original: id of the file with the network that it was made of; its own where it was made of none.
      form: how it was made; empty for the networks of the run.
      kind: what a copy is to its original; empty for what is no copy.
    """

    original: str
    form: str = ""
    kind: str = ""

    @property
    def same(self) -> bool:
        """Whether it is a copy, or an original."""
        return bool(self.kind) or not self.form


def _of_tensors(change: Callable[[dict[str, np.ndarray]], Tensors]) -> Make:
    return lambda checkpoint, rng: change(_arrays(checkpoint))


def _typed(dtype) -> Make:
    return _of_tensors(lambda tensors: {name: tensor.astype(dtype) for name, tensor in tensors.items()})


def _renamed(tensors: Tensors) -> Tensors:
    return {f"net.{name.replace('/', '.')}": tensors[name] for name in reversed(list(tensors))}


def _reordered(checkpoint: Checkpoint, rng: np.random.Generator) -> Tensors:
    return _arrays(random_symmetry(checkpoint, read_program(checkpoint).wiring, rng, scale=False))


def _rescaled(checkpoint: Checkpoint, rng: np.random.Generator) -> Tensors:
    return _arrays(permuted(checkpoint, rng))


def _arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}


def _stepped(size: float) -> Make:
    def make(checkpoint: Checkpoint, rng: np.random.Generator) -> Tensors:
        tensors = _arrays(checkpoint)
        return {
            n: t + np.float32(size) * rng.choice(np.array([-1, 1], np.float32), t.shape) for n, t in tensors.items()
        }

    return make


def _biases_trained(checkpoint: Checkpoint, rng: np.random.Generator) -> Tensors:
    def trained(tensor: np.ndarray) -> np.ndarray:
        return tensor + np.float32(0.01) * rng.standard_normal(tensor.shape, np.float32)

    tensors = _arrays(checkpoint)
    return {name: trained(tensor) if name.endswith("bias") else tensor for name, tensor in tensors.items()}


def _shuffled(checkpoint: Checkpoint, rng: np.random.Generator) -> Tensors:
    """The units that one matrix writes in another order, which no other tensor follows: another network."""
    tensors = _arrays(checkpoint)
    largest = max((name for name in tensors if tensors[name].ndim > 1), key=lambda name: tensors[name].size)
    order = rng.permutation(tensors[largest].shape[-1])
    return tensors | {largest: np.ascontiguousarray(tensors[largest][..., order])}


COPIES: dict[str, tuple[Kind, Make | None]] = {
    "copied": (Kind.SAME_FILE, None),
    "renamed, in another order": (Kind.SAME_WEIGHTS, _of_tensors(_renamed)),
    "names and layout of PyTorch": (Kind.SAME_WEIGHTS, _of_tensors(as_pytorch)),
    "npz": (Kind.SAME_WEIGHTS, _of_tensors(lambda tensors: tensors)),
    "two shards": (Kind.SAME_WEIGHTS, _of_tensors(_renamed)),
    "float16": (Kind.SAME_WEIGHTS, _typed(np.float16)),
    "bfloat16": (Kind.SAME_WEIGHTS, _typed(ml_dtypes.bfloat16)),
    "permuted": (Kind.SAME_SYMMETRY, _reordered),
    "permuted and rescaled": (Kind.SAME_SYMMETRY, _rescaled),
    "int8": (Kind.SAME_PRECISION, _of_tensors(quantize)),
    "four bits": (Kind.SAME_PRECISION, _of_tensors(four_bits)),
}
DISTRACTORS: dict[str, Make] = {
    "one step of Adam, 1e-4": _stepped(STEP),
    "one step of Adam, 1e-3": _stepped(10 * STEP),
    "biases trained": _biases_trained,
    "one layer's units shuffled": _shuffled,
    "noise of 1 %": _of_tensors(add_noise),
    "half of the weights pruned": _of_tensors(prune),
}


def write_zoo(
    folder: Path, zoo: Path, records: Sequence[Record], originals: Sequence[Record], models: int, seed: int
) -> dict[str, Written]:
    """Writes all checkpoints of a run into one folder, and some of them in all forms.

    Args:
      folder: made here; names of files are numbers.
      zoo: of the run.
      records: all of its checkpoints.
      originals: those that copies are made of.
      models: how many of these are drawn.
      seed: of all draws.

    Returns:
      What each file holds, by its path.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, 31])
    numbers = iter(rng.permutation(10**6).tolist())
    places: dict[str, Path] = {}
    written: dict[str, Written] = {}
    for record in records:
        path = folder / f"{next(numbers):06d}.safetensors"
        shutil.copyfile(zoo / record.path, path)
        places[record.id] = path
        written[str(path)] = Written(str(path))
    drawn = sorted(rng.permutation(len(originals))[:models].tolist())
    for record, checkpoint in zip(
        [originals[i] for i in drawn], StoredCheckpoints(zoo, [originals[i] for i in drawn]), strict=True
    ):
        original = places[record.id]
        forms = {**{n: make for n, (_, make) in COPIES.items()}, **DISTRACTORS}
        for form, make in forms.items():
            path = _write(folder / f"{next(numbers):06d}", form, original, make and make(checkpoint, rng))
            kind = str(COPIES[form][0]) if form in COPIES else ""
            written[str(path)] = Written(str(original), form, kind)
    return written


def _write(stem: Path, form: str, original: Path, tensors: Tensors | None) -> Path:
    path = stem.with_suffix(".safetensors")
    if tensors is None:
        shutil.copyfile(original, path)
        return path
    own = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    if form == "npz":
        path = stem.with_suffix(".npz")
        np.savez(path, **own)  # pyright: ignore[reportArgumentType]
    elif form == "two shards":
        stem.mkdir()
        names, weight_map = list(own), {}
        for number in range(2):
            part = {name: own[name] for name in names[number::2]}
            file = f"model-{number + 1:05d}-of-00002.safetensors"
            safetensors.numpy.save_file(part, stem / file)
            weight_map |= dict.fromkeys(part, file)
        (stem / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        path = stem
    else:
        safetensors.numpy.save_file(own, path)
    return path
