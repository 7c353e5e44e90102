"""The matrices that a signature describes: those of the file in the one form that all its copies have.

Experts are described one by one, whether a file stacks them or not, and the gates of a stack apart. The two matrices of
a low-rank adapter are balanced, since only their product counts. What is the same for all rows of a router goes, since
the softmax over experts does not see it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod

import numpy as np

from wsrl.canonical.products import multiply, product_matrices
from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Checkpoint, LazyTensor, Tensor
from wsrl.wiring.wiring import Operation, Product, Wiring

EXPERTS = re.compile(r"(?P<parent>.*)[./]experts[./](?P<number>\d+)[./]")
SMALL = 2**22  # entries of a router or an adapter, which are read whole


@dataclass(frozen=True)
class Matrix:
    """A matrix or a tensor of more axes.

    Attributes:
      tensor: its entries.
      gain: logarithm of a scale that the function sees and that is not free, as that of an adapter; else 0.
    """

    tensor: Tensor
    gain: float = 0.0


def matrices(checkpoint: Checkpoint, wiring: Wiring) -> dict[str, Matrix]:
    """Returns the tensors of a checkpoint by name; parts of a tensor have the number of the part behind it.

    Raises:
      CheckpointError: an adapter or a router holds NaN or Inf, or cannot be read.
    """
    kept = {name: Matrix(tensor) for name, tensor in checkpoint.tensors.items()}
    counts = _expert_counts(wiring)
    for operation in wiring.operations:
        count = counts.get(operation.name.replace("/", ".").rpartition(".")[0])
        if operation.type == "experts":
            for name in operation.tensors.values():
                if len(wiring.shapes[name]) == 3:
                    kept |= dict(_experts(kept.pop(name).tensor, name, operation, wiring))
        elif count and operation.type == "linear":
            name = operation.tensors["weight"]
            shape = wiring.shapes[name]
            if count in shape and prod(shape) <= SMALL:
                weight = read_whole(kept[name].tensor)
                kept[name] = Matrix(weight - weight.mean(shape.index(count), keepdims=True))
    adapters = {name for op in wiring.operations if op.type == "low rank" for name in op.tensors.values()}
    for product in wiring.products:
        if {product.left.tensor, product.right.tensor} <= adapters:
            kept |= _balanced(checkpoint, product)
    return kept


def _experts(tensor: Tensor, name: str, operation: Operation, wiring: Wiring) -> Iterator[tuple[str, Matrix]]:
    """Cuts [experts, ..., ...] into a matrix for each expert and, where gates share an axis, for each gate."""
    axes = [wiring.axes[name][i] or () for i in (1, 2)]
    outer = [segments[0].outer if len(segments) == 1 else 1 for segments in axes]
    inner = [segments[0].inner if len(segments) == 1 else 1 for segments in axes]
    read = lru_cache(1)(partial(_expert, tensor))
    _, rows, columns = wiring.shapes[name]
    for expert in range(wiring.shapes[name][0]):
        for row in _gates(rows, outer[0], inner[0]):
            for column in _gates(columns, outer[1], inner[1]):
                shape = (len(range(rows)[row]), len(range(columns)[column]))
                own = partial(_cut, read, expert, row, column)
                label = f"{name}[{expert}, {row.start or 0}, {column.start or 0}]"
                yield label, Matrix(LazyTensor(shape, "float32", own, name, label))


def _gates(length: int, outer: int, inner: int) -> list[slice]:
    """The entries of each gate along an axis: stretches one after the other, or each with a stride."""
    if outer > 1:
        return [slice(i * length // outer, (i + 1) * length // outer) for i in range(outer)]
    return [slice(i, None, inner) for i in range(inner)]


def _expert(tensor: Tensor, expert: int) -> np.ndarray:
    return tensor.rows(expert, expert + 1)[0] if isinstance(tensor, LazyTensor) else tensor[expert]


def _cut(
    read: Callable[[int], np.ndarray], expert: int, row: slice, column: slice, start: int, stop: int
) -> np.ndarray:
    return read(expert)[row, column][start:stop]


def _expert_counts(wiring: Wiring) -> dict[str, int]:
    """The number of experts of each module that has some, by its name."""
    counts: dict[str, int] = {}
    for operation in wiring.operations:
        if operation.type == "experts":
            parent = operation.name.replace("/", ".").rsplit(".experts", 1)[0]
            counts[parent] = wiring.shapes[next(iter(operation.tensors.values()))][0]
    for name in wiring.shapes:
        if match := EXPERTS.match(name):
            parent = match["parent"].replace("/", ".")
            counts[parent] = max(counts.get(parent, 0), int(match["number"]) + 1)
    return counts


def _balanced(checkpoint: Checkpoint, product: Product) -> dict[str, Matrix]:
    """The two matrices of an adapter, balanced, and the scale of what they add to the weights."""
    names = product.left.tensor, product.right.tensor
    own = {name: np.array(read_whole(checkpoint.tensors[name])) for name in names}
    shapes = {name: tensor.shape for name, tensor in own.items()}
    for part, change in product_matrices(dict(own), (product,), shapes):
        multiply(own[part.along.tensor], 0, part, change)
    strength = float(np.square(own[names[0]], dtype=np.float64).sum())  # of the balanced: the sum of singular values
    scales = checkpoint.adapter_scales.items()
    scale = next((scale for module, scale in scales if names[0].startswith(f"{module}.")), 1.0)
    gain = float(np.log(max(strength * abs(scale), np.finfo(np.float32).tiny)))
    return {name: Matrix(tensor, gain) for name, tensor in own.items()}
