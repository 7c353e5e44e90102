"""Networks of a known tree, as files that tell nothing of it but for one that declares its base."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from experiments.tables.relation_zoo import CHANGES, CLASSES, STEPS, TUNING, Recipe, Tensors, recipe
from wsrl.zoo.copies import quantize

RATE, TUNING_RATE = 3e-3, 1e-3
CHAIN = 100  # steps of each link of a chain
MORE_CLASSES = 5


@dataclass(frozen=True)
class Planted:
    """A network of the zoo.

    Attributes:
      lineage: equal for all that come from one base.
      change: what was done to the parent; `base` for none.
      parent: path of the file of the network that it was made of; empty for none.
    """

    lineage: str
    change: str
    parent: str


def write_lineages(folder: Path, architecture: str, lineages: int, strangers: int, seed: int) -> dict[str, Planted]:
    """Trains bases and what comes from them, and writes all of it into a folder.

    Bases, those of lineages and strangers, are trained alike from other seeds.

    Args:
      folder: made here; names of files are numbers.
      architecture: of `relation_zoo`.
      lineages: bases with descendants.
      strangers: bases without any.
      seed: of all draws.

    Returns:
      What each file holds, by its path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = recipe(architecture)
    seeds = range(seed, seed + lineages + strangers)
    bases = own.train([own.initial(number) for number in seeds], 0, seeds, STEPS, RATE)
    numbers = iter(np.random.default_rng([seed, len(architecture)]).permutation(10**5).tolist())
    written: dict[str, Planted] = {}

    def write(lineage: str, change: str, parent: str, tensors: Tensors) -> str:
        path = folder / f"{next(numbers):05d}.safetensors"
        told = {"base_model": Path(parent).stem} if change == "declared" else None
        safetensors.numpy.save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path, told)
        written[str(path)] = Planted(lineage, change, parent)
        return str(path)

    names = [f"{architecture} {number}" for number in seeds]
    paths = [write(name, "base", "", base) for name, base in zip(names, bases, strict=True)]
    roots = list(zip(names, paths, bases, strict=True))[:lineages]
    for trained in _trained(own, [base for *_, base in roots], seed):
        before = dict(zip((name for name, *_ in roots), (path for _, path, _ in roots), strict=True))
        for change, networks in trained:
            for (name, *_), tensors in zip(roots, networks, strict=True):
                before[name] = write(name, change, before[name], tensors)
    for name, path, base in roots:
        rng = np.random.default_rng([seed, int(name.rpartition(" ")[2])])
        for change, tensors in _converted(base, rng):
            write(name, change, path, tensors)
    return written


def _trained(own: Recipe, bases: Sequence[Tensors], seed: int) -> Iterator[list[tuple[str, list[Tensors]]]]:
    """Yields chains of what is trained from the bases, each link from the one before; no two see the same batches."""

    def train(starts: Sequence[Tensors], task: int, steps: int, number: int) -> list[Tensors]:
        first = seed + 1000 * (number + 1)
        return own.train(starts, task, range(first, first + len(starts)), steps, TUNING_RATE)

    for number, steps in enumerate(TUNING):
        yield [(f"{steps} steps", train(bases, 1, steps, number))]
    links: list[tuple[str, list[Tensors]]] = []
    for number in range(3):
        links.append((f"link {number + 1} of a chain", train(links[-1][1] if links else bases, 2, CHAIN, 10 + number)))
    yield links
    yield [("declared", train(bases, 3, CHAIN, 20))]


def _converted(base: Tensors, rng: np.random.Generator) -> Iterator[tuple[str, Tensors]]:
    yield "float16", {name: tensor.astype(np.float16) for name, tensor in base.items()}
    yield "int8", quantize(base)
    yield "pruned .5", CHANGES["pruned .5"][1](base, rng)
    head = next(name for name, tensor in base.items() if tensor.ndim == 2 and tensor.shape[1] == CLASSES)
    more = {
        "kernel": base[head].std() * rng.standard_normal((len(base[head]), MORE_CLASSES)),
        "bias": np.zeros(MORE_CLASSES),
    }
    grown = {head: more["kernel"], head.replace("kernel", "bias"): more["bias"]}
    yield (
        "classes added",
        {n: np.concatenate([t, grown[n].astype(np.float32)], -1) if n in grown else t for n, t in base.items()},
    )
