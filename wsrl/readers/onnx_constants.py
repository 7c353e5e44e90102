"""The constants of a graph of ONNX, and what its nodes make of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsrl.checkpoint import LazyTensor
from wsrl.readers.affine import affine, along

INDICES = ("int64", "uint64", "bool", "uint32", "int16", "uint16", "int32")  # types of what is seldom a weight


@dataclass(frozen=True)
class Constant:
    """A tensor of the file, or what has become of it.

    Attributes:
      base: the name of the file's tensor.
      tensor: as it is now.
      steps: what was done to it, each a tuple of an operator and its settings.
    """

    base: str
    tensor: LazyTensor
    steps: tuple[tuple, ...] = ()

    @property
    def is_real(self) -> bool:
        """Whether its entries are the numbers that the network computes with, rather than codes of those."""
        scaled = any(step[0] == "scale" for step in self.steps)
        return scaled or not self.tensor.dtype.startswith(("int", "uint", "bool", "float4", "float8"))


class Constants:
    """All constants.

    Attributes:
      tensors: those of the file by name.
      values: what each value of the graph is that is constant.
      made: all forms of them, by the name of the file's tensor and the steps.
      factors: names of scales and zero points, in order.
      warnings: a sentence for each constant whose scale is not known.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor], path: Path):
        self.path = path
        self.tensors = dict(tensors)
        self.values = {name: Constant(name, tensor) for name, tensor in tensors.items()}
        self.made: dict[tuple[str, tuple], Constant] = {(name, ()): constant for name, constant in self.values.items()}
        self.factors: dict[str, None] = {}
        self.warnings: list[str] = []

    def input(self, inputs: list[str], place: int | None) -> Constant | None:
        """The constant at a place among a node's inputs; None if there is none."""
        return self.values.get(inputs[place]) if place is not None and place < len(inputs) else None

    def add_factors(self, names: Sequence[str], places: Iterable[int]) -> None:
        """Notes names at some places as those of scales and zero points."""
        self.factors |= dict.fromkeys(names[i] for i in places if i < len(names) and names[i] in self.tensors)

    def scaled(
        self, constant: Constant, scale: Constant | None, zero: Constant | None, axis: int, block: int
    ) -> Constant:
        """The constant dequantized.

        Args:
          constant: integers.
          scale, zero: one number for all, one for each index of `axis`, or one for each `block` of these; or they
            broadcast. Without a scale only the zero point is taken off.

        Raises:
          CheckpointError: the shapes do not fit together.
        """
        stored = constant.tensor
        step = ("scale", scale and scale.base, zero and zero.base, axis, block)
        for part in (scale, zero):
            self.add_factors([part.base] if part else [], [0])

        def build() -> LazyTensor:
            blocks = [1] * max(stored.ndim, 1)
            if block and -stored.ndim <= axis < stored.ndim:
                blocks[axis] = max(block, 1)
            factors = [part and _laid(np.asarray(part.tensor), stored.ndim, axis) for part in (scale, zero)]
            one = np.ones(1, np.float32)
            return affine(stored, one if factors[0] is None else factors[0], factors[1], self.path, blocks)

        return self.derived(constant, step, build)

    def derived(self, constant: Constant, step: tuple, build: Callable[[], LazyTensor]) -> Constant:
        """A constant after one more step; built unless it was before."""
        key = (constant.base, (*constant.steps, step))
        if key not in self.made:
            self.made[key] = Constant(constant.base, build(), key[1])
        return self.made[key]

    def new(self, constant: Constant, step: tuple, tensor: LazyTensor, value: str) -> str:
        """Enters a derived constant as a value of the graph, and returns the value's name."""
        self.values[value] = self.derived(constant, step, lambda: tensor)
        return value


def _laid(factors: np.ndarray, ndim: int, axis: int) -> np.ndarray:
    """Factors in a shape that broadcasts against a tensor of `ndim` axes."""
    if factors.size == 1:
        return factors.reshape(-1)
    if factors.ndim == 2 and ndim == 3:  # of an LSTM: directions and gates
        return factors[:, None, :]
    wide = factors.ndim > 1 and max(factors.shape) == factors.size  # all but one of its axes have the length 1
    if factors.ndim == 1 or (wide and factors.ndim != ndim):
        return along(factors, axis, ndim)
    return factors
