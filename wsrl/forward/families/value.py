"""Values of a network that is being written down: they know their shapes, and what is done to them becomes steps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Union

import numpy as np
from jaxtyping import Shaped

from wsrl.forward.graph import Step

Shape = tuple[int, ...]
Number = int | float


class Trace:
    """The steps and constants that have been written down so far.

    Attributes:
      steps: in the order in which they run.
      constants: by name; equal ones are kept once.
      input: name of the value that a caller gives.
    """

    def __init__(self, taken: Collection[str]):
        """Begins without steps; no value gets one of the names that are `taken`, those of tensors."""
        self.steps: list[Step] = []
        self.constants: dict[str, np.ndarray] = {}
        self._taken = set(taken)
        self._kept: dict[tuple, str] = {}
        self.input = self._new_name("images")

    def run(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: object) -> tuple[str, ...]:
        """Adds a step and returns the names of its results."""
        names = tuple(self._new_name(op.lower()) for _ in range(outputs))
        self.steps.append(Step(op, tuple(inputs), names, attributes))
        return names

    def constant(self, array: Shaped[np.ndarray, "..."]) -> str:
        """Returns the name of a constant."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._kept:
            self._kept[key] = self._new_name("constant")
            self.constants[self._kept[key]] = array
        return self._kept[key]

    def integers(self, *numbers: int) -> str:
        """Returns the name of a constant vector of int64, as operators take shapes and axes."""
        return self.constant(np.array(numbers, np.int64))

    def _new_name(self, word: str) -> str:
        name = f"{word}:{len(self._taken)}"
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class Value:
    """What flows through the network, or a tensor of the checkpoint.

    Attributes:
      shape: without the batch; a value whose windows were moved into the batch has the shape of one window.
      batched: whether the first axis, which `shape` leaves out, is the batch. Tensors and constants have none.
    """

    trace: Trace
    name: str
    shape: Shape
    batched: bool = True

    def then(self, op: str, *inputs: str, shape: Shape | None = None, **attributes: object) -> "Value":
        """The result of an operator that reads this value first; of the same shape unless another is given."""
        (name,) = self.trace.run(op, (self.name, *inputs), 1, **attributes)
        return Value(self.trace, name, self.shape if shape is None else shape, self.batched)

    def __add__(self, other: Union["Value", Number]) -> "Value":
        return self._with("Add", other)

    def __sub__(self, other: Union["Value", Number]) -> "Value":
        return self._with("Sub", other)

    def __mul__(self, other: Union["Value", Number]) -> "Value":
        return self._with("Mul", other)

    def __truediv__(self, other: Union["Value", Number]) -> "Value":
        return self._with("Div", other)

    def _with(self, op: str, other: Union["Value", Number]) -> "Value":
        if not isinstance(other, Value):
            other = Value(self.trace, self.trace.constant(np.array(other, np.float32)), (), batched=False)
        longer, shorter = (self, other) if len(self.shape) >= len(other.shape) else (other, self)
        if shorter.batched and (len(shorter.shape) < len(longer.shape) or not longer.batched):
            raise ValueError(f"{self.shape} and {other.shape} do not fit each other")
        (name,) = self.trace.run(op, (self.name, other.name))
        shape = np.broadcast_shapes(self.shape, other.shape)
        return Value(self.trace, name, shape, self.batched or other.batched)

    def __matmul__(self, other: "Value") -> "Value":
        if self.shape[-1] != other.shape[-2]:
            raise ValueError(f"{other.name} reads {other.shape[-2]} units, not {self.shape[-1]}")
        left, right = self.shape[:-2], other.shape[:-2]
        stacked = np.broadcast_shapes(left, right) if len(self.shape) > 1 else ()
        shape = (*stacked, *self.shape[-2:-1], other.shape[-1])
        (name,) = self.trace.run("MatMul", (self.name, other.name))
        return Value(self.trace, name, shape, self.batched or other.batched)

    def reshape(self, *shape: int) -> "Value":
        """The same entries in another shape."""
        if prod(shape) != prod(self.shape):
            raise ValueError(f"{self.shape} cannot become {shape}")
        return self.refold(*shape) if shape != self.shape else self

    def refold(self, *shape: int) -> "Value":
        """The same entries in another shape, with windows moved into or out of the batch."""
        return self.then("Reshape", self.trace.integers(*([-1] * self.batched), *shape), shape=shape)

    def transpose(self, *axes: int) -> "Value":
        """Axes, counted without the batch, in another order."""
        shape = tuple(self.shape[a] for a in axes)
        return self.then("Transpose", shape=shape, perm=(0, *(a + 1 for a in axes)) if self.batched else axes)

    def to_last(self) -> "Value":
        """[channels, height, width] as [height, width, channels]."""
        return self.transpose(1, 2, 0)

    def to_first(self) -> "Value":
        """[height, width, channels] as [channels, height, width]."""
        return self.transpose(2, 0, 1)

    def tokens(self) -> "Value":
        """[channels, height, width] as [height x width, channels]."""
        channels, height, width = self.shape
        return self.reshape(channels, height * width).transpose(1, 0)

    def image(self, height: int, width: int) -> "Value":
        """[height x width, channels] as [channels, height, width]."""
        return self.transpose(1, 0).reshape(self.shape[-1], height, width)

    def flatten(self) -> "Value":
        """All entries as one vector."""
        return self.reshape(prod(self.shape))

    def mean(self, *axes: int, keep: bool = False) -> "Value":
        """Mean along axes that are counted without the batch."""
        return self._reduced("ReduceMean", axes, keep)

    def norm(self, *axes: int) -> "Value":
        """Euclidean norm along axes, which are kept with length 1."""
        return self._reduced("ReduceL2", axes, True)

    def _reduced(self, op: str, axes: Shape, keep: bool) -> "Value":
        axes = tuple(a % len(self.shape) for a in axes)
        kept = [1 if i in axes else n for i, n in enumerate(self.shape) if keep or i not in axes]
        places = self.trace.integers(*(a + self.batched for a in axes))
        return self.then(op, places, shape=tuple(kept), keepdims=int(keep))

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> "Value":
        """Entries start to stop of an axis, every `step`-th."""
        axis %= len(self.shape)
        length = len(range(*slice(start, stop, step).indices(self.shape[axis])))
        places = [self.trace.integers(n) for n in (start, stop, axis + self.batched, step)]
        return self.then("Slice", *places, shape=(*self.shape[:axis], length, *self.shape[axis + 1 :]))

    def split(self, axis: int, *sizes: int) -> tuple["Value", ...]:
        """Stretches of an axis, one after the other."""
        axis %= len(self.shape)
        if sum(sizes) != self.shape[axis]:
            raise ValueError(f"{self.shape[axis]} entries cannot be split into {sizes}")
        inputs = (self.name, self.trace.integers(*sizes))
        names = self.trace.run("Split", inputs, len(sizes), axis=axis + self.batched)
        shapes = [(*self.shape[:axis], size, *self.shape[axis + 1 :]) for size in sizes]
        return tuple(Value(self.trace, n, s, self.batched) for n, s in zip(names, shapes, strict=True))

    def pad(self, *widths: tuple[int, int]) -> "Value":
        """Zeros before and after the entries of each axis."""
        ends = [(0, 0)] * self.batched + list(widths)
        pads = self.trace.integers(*(before for before, _ in ends), *(after for _, after in ends))
        shape = tuple(n + sum(width) for n, width in zip(self.shape, widths, strict=True))
        return self.then("Pad", pads, shape=shape) if any(map(any, widths)) else self

    def enlarged(self, times: int) -> "Value":
        """[channels, height, width] with each pixel repeated along both sides."""
        scales = self.trace.constant(np.array([1, 1, times, times], np.float32))
        channels, height, width = self.shape
        sampled = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.then("Resize", "", scales, shape=(channels, height * times, width * times), **sampled)

    def roll(self, axis: int, shift: int) -> "Value":
        """Entries moved on by `shift` along an axis; what leaves at one end comes in at the other."""
        length = self.shape[axis]
        cut = -shift % length
        return concat((self.slice(axis, cut, length), self.slice(axis, 0, cut)), axis) if cut else self


def concat(values: Sequence[Value], axis: int) -> Value:
    """Values one after the other along an axis that is counted without the batch."""
    first = values[0]
    axis %= len(first.shape)
    if len({(*v.shape[:axis], *v.shape[axis + 1 :], v.batched) for v in values}) > 1:
        raise ValueError(f"{[v.shape for v in values]} cannot be joined along axis {axis}")
    (name,) = first.trace.run("Concat", [v.name for v in values], axis=axis + first.batched)
    shape = (*first.shape[:axis], sum(v.shape[axis] for v in values), *first.shape[axis + 1 :])
    return Value(first.trace, name, shape, first.batched)
