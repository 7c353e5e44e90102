"""The canonical form of a checkpoint: the same tensors, made unique as they are read."""

from dataclasses import replace

import numpy as np

from wsrl.canonical.norms import find_folds, fold_norm
from wsrl.canonical.products import Part, multiply, product_matrices
from wsrl.canonical.rows import ReadRows, forget_pages, row_reader
from wsrl.canonical.scales import Scaling, fix_scales, plan_scales
from wsrl.checkpoint import Checkpoint, LazyTensor, Tensor
from wsrl.wiring.wiring import Wiring


def canonicalize(checkpoint: Checkpoint, wiring: Wiring) -> Checkpoint:
    """Returns a checkpoint with the same function whose scales, signs and products are fixed; see `Canonicalizer`."""
    return Canonicalizer(wiring)(checkpoint)


class Canonicalizer:
    """Brings checkpoints of one wiring into canonical form.

    Batch norms are folded into the weights before them, each unit's incoming weights get length 1 (or a positive sum
    of cubes), and products are balanced. What that takes is measured at once, in pieces; the weights themselves are
    changed when they are read, whatever rows are asked for.
    """

    def __init__(self, wiring: Wiring):
        self.wiring = wiring
        self.folds = find_folds(wiring)
        self.steps = plan_scales(wiring, self.folds)

    def __call__(self, checkpoint: Checkpoint) -> Checkpoint:
        """Returns the canonical form.

        Raises:
          CheckpointError: a tensor that is needed holds NaN or Inf, or cannot be read.
        """
        tensors: dict[str, Tensor] = dict(checkpoint.tensors)
        scaling = Scaling(tensors)
        for fold in self.folds:
            gain, replaced = fold_norm(tensors, fold)
            scaling.multiply(fold.weight, fold.axis, gain)
            tensors |= {name: values.astype(np.float32) for name, values in replaced.items()}
        fix_scales(scaling, self.steps)
        for name in {name for name, _ in scaling.along}:
            tensors[name] = self._lazy(checkpoint, name, _Scaled(name, tensors[name], scaling))
        changes: dict[str, list[tuple[Part, np.ndarray]]] = {}
        for part, matrices in product_matrices(tensors, self.wiring.products, self.wiring.shapes):
            with np.errstate(over="ignore"):  # told of when the tensor is read
                changes.setdefault(part.along.tensor, []).append((part, matrices.astype(np.float32)))
            forget_pages(checkpoint.tensors[part.along.tensor])
        for name, own in changes.items():
            tensors[name] = self._lazy(checkpoint, name, _Multiplied(tensors[name], own))
        return replace(checkpoint, tensors=tensors)

    def _lazy(self, checkpoint: Checkpoint, name: str, read: ReadRows) -> LazyTensor:
        return LazyTensor(self.wiring.shapes[name], "float32", read, checkpoint.path, name)


class _Scaled:
    """Reads rows that are multiplied along their axes."""

    def __init__(self, name: str, tensor: Tensor, scaling: Scaling):
        self.name, self.read, self.scaling = name, row_reader(tensor), scaling

    def __call__(self, start: int, stop: int) -> np.ndarray:
        return self.scaling.apply(self.name, self.read(start, stop), start)


class _Multiplied:
    """Reads rows whose heads are multiplied by a matrix each."""

    def __init__(self, tensor: Tensor, changes: list[tuple[Part, np.ndarray]]):
        self.read, self.changes = row_reader(tensor), changes

    def __call__(self, start: int, stop: int) -> np.ndarray:
        first, last = self._whole_heads(start, stop)
        rows = np.array(self.read(first, last), order="C")
        for part, matrices in self.changes:
            multiply(rows, first, part, matrices)
        return rows[start - first : stop - first]

    def _whole_heads(self, start: int, stop: int) -> tuple[int, int]:
        """Widens a range of rows until it cuts no head."""
        while True:
            first, last = start, stop
            for part, _ in self.changes:
                low, high, step = part.rows
                if low < first < high:
                    first -= (first - low) % step
                if low < last < high:
                    last += -(last - low) % step
            if (first, last) == (start, stop):
                return first, last
            start, stop = first, last
