"""The matrices that a signature describes: those of the file in the one form that all its copies have.

Experts are described one by one, whether a file stacks them or not, and the gates of a stack apart, as are gates and
directions of recurrent layers, whose biases are no matrices, in whatever form they lie. The two matrices of a low-rank
adapter are balanced, since only their product counts. What is the same for all rows of a router goes, since the softmax
over experts does not see it. Of attention, products are described (`wsrl.signature.attention`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod

import numpy as np

from wsrl.canonical.products import multiply, product_matrices
from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Checkpoint, LazyTensor, Tensor
from wsrl.signature.attention import Pair, Projection, attention_matrices
from wsrl.signature.recurrent import Index, recurrent_parts
from wsrl.wiring.wiring import Operation, Product, Wiring

EXPERTS = re.compile(r"(?P<parent>.*)[./]experts[./](?P<number>\d+)[./]")
SMALL = 2**22  # entries of a router or an adapter, which are read whole


@dataclass(frozen=True)
class Matrix:
    """A matrix or a tensor of more axes.

    Attributes:
      shape: of the tensor.
      read: returns its entries: a tensor that is read in pieces, or one that is computed.
      gain: logarithm of a scale that the function sees and that is not free, as that of an adapter; else 0.
      parts: the number of parts, of which this is one, that a layer's tensor was cut into.
      described: whether it has a descriptor; the others are described by what they are multiplied with.
      stored: whether it is in the file as it is, or a part of it; others are not digested.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    gain: float = 0.0
    parts: int = 1
    described: bool = True
    stored: bool = True

    @classmethod
    def of(cls, tensor: Tensor, gain: float = 0.0) -> "Matrix":
        """A tensor that is there."""
        return cls(tensor.shape, lambda: tensor, gain)


def matrices(checkpoint: Checkpoint, wiring: Wiring) -> dict[str, Matrix]:
    """Returns the tensors of a checkpoint by name; parts of a tensor have the number of the part behind it.

    Raises:
      CheckpointError: an adapter or a router holds NaN or Inf, or cannot be read.
    """
    kept = {name: Matrix.of(tensor) for name, tensor in checkpoint.tensors.items()}
    counts = _expert_counts(wiring)
    for operation in wiring.operations:
        count = counts.get(operation.name.replace("/", ".").rpartition(".")[0])
        if operation.type == "recurrent":
            for name in operation.tensors.values():
                kept.pop(name, None)
            for name, index, parts in recurrent_parts(operation, wiring):
                shape = np.broadcast_to(np.float32(0), wiring.shapes[name])[index].shape
                read = partial(_part, checkpoint.tensors[name], index)
                kept[f"{name}{list(index)}"] = Matrix(shape, read, parts=parts)
        elif operation.type == "experts":
            for name in operation.tensors.values():
                if len(wiring.shapes[name]) == 3:
                    del kept[name]
                    kept |= dict(_experts(checkpoint.tensors[name], name, operation, wiring))
        elif count and operation.type == "linear":
            name = operation.tensors["weight"]
            shape = wiring.shapes[name]
            if count in shape and prod(shape) <= SMALL:
                weight = read_whole(checkpoint.tensors[name])
                kept[name] = Matrix.of(weight - weight.mean(shape.index(count), keepdims=True))
    adapters = {name for op in wiring.operations if op.type == "low rank" for name in op.tensors.values()}
    for product in wiring.products:
        if {product.left.tensor, product.right.tensor} <= adapters:
            kept |= _balanced(checkpoint, product)
    for names, described in attention_matrices(wiring):
        if names <= kept.keys():
            kept |= {name: replace(kept[name], described=False) for name in names}
            kept |= dict(_of_attention(checkpoint, described))
    return kept


def _of_attention(checkpoint: Checkpoint, described: list[Projection | Pair]) -> Iterator[tuple[str, Matrix]]:
    """Products, which are computed when they are described, and projections that have none."""
    for own in described:
        if isinstance(own, Pair):
            name = f"{own.left.tensor}[{own.left.start}] x {own.right.tensor}[{own.right.start}]"
            yield name, Matrix(own.shape, partial(own.multiply, checkpoint.tensors), stored=False)
        else:
            shape = own.rows, own.columns
            yield f"{own.tensor}[{own.start}]", Matrix(shape, partial(own.read, checkpoint.tensors), stored=False)


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
                yield label, Matrix.of(LazyTensor(shape, "float32", own, name, label))


def _gates(length: int, outer: int, inner: int) -> list[slice]:
    """The entries of each gate along an axis: stretches one after the other, or each with a stride."""
    if outer > 1:
        return [slice(i * length // outer, (i + 1) * length // outer) for i in range(outer)]
    return [slice(i, None, inner) for i in range(inner)]


def _part(tensor: Tensor, index: Index) -> np.ndarray:
    return read_whole(tensor)[index]


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
    return {name: Matrix.of(tensor, gain) for name, tensor in own.items()}
