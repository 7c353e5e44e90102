"""A tree that was built, as what the tables need: vectors, differences and tasks of all children."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int
from tqdm import tqdm

from wsrl.readers import open_checkpoint
from wsrl.relative.base import Base
from wsrl.relative.child import read_child
from wsrl.relative.vector import Block, RelativeEncoder
from wsrl.zoo.manifest import read_manifest

SUBSET = "subset"  # split and rule of children that are trained on random classes


@dataclass(frozen=True)
class MeasuredTree:
    """The children of a tree.

    Attributes:
      vectors, blocks: see `wsrl.relative.vector.RelativeEncoder`.
      dense: of each child the differences [outputs, inputs] by module; zeros for what it does not change.
      modules: that any child changes, in order.
      task: label of each child.
      splits: `train`, `test` or `subset` of each.
      datasets: image set of each.
      sources: classes of the image set that each was trained on.
      parameters: of the base.
    """

    vectors: Float32[np.ndarray, "n dim"]
    blocks: Sequence[Block]
    dense: Sequence[Mapping[str, np.ndarray]]
    modules: Sequence[str]
    task: Int[np.ndarray, " n"]
    splits: Sequence[str]
    datasets: Sequence[str]
    sources: Sequence[Sequence[int]]
    parameters: int

    def places(self, split: str) -> Int[np.ndarray, " m"]:
        """Places of the children of a split."""
        return np.flatnonzero(np.array(self.splits) == split)


def measure_tree(workdir: Path) -> MeasuredTree:
    """Reads all children of a tree.

    Raises:
      InputError: there is no tree, or a file of it cannot be used.
    """
    records, _ = read_manifest(workdir / "zoo")
    checkpoint = open_checkpoint(workdir / "base")
    encoder = RelativeEncoder(Base(checkpoint))
    vectors, dense = [], []
    for record in tqdm(records, desc="children", unit="model"):
        child = read_child(open_checkpoint(workdir / "zoo" / record.path), encoder.base)
        vectors.append(encoder.embed(child)[0])
        own = {}
        for module, change in child.changes.items():
            outputs, read, taps = encoder.base.matrices[module].shape
            own[module] = change.project(np.eye(outputs), np.eye(read * taps)).product.astype(np.float32)
        dense.append(own)
    modules = [name for name in encoder.base.matrices if any(name in own for own in dense)]
    zeros = {name: next(np.zeros_like(own[name]) for own in dense if name in own) for name in modules}
    return MeasuredTree(
        vectors=np.stack(vectors),
        blocks=encoder.blocks,
        dense=[{**zeros, **own} for own in dense],
        modules=modules,
        task=np.unique([record.task for record in records], return_inverse=True)[1],
        splits=[record.split or SUBSET for record in records],
        datasets=[record.dataset for record in records],
        sources=[tuple(record.get("sources", ())) for record in records],
        parameters=sum(tensor.size for tensor in checkpoint.tensors.values()),
    )
