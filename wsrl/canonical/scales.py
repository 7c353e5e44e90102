"""Positive scales and signs of units: what each unit's weights are divided by.

A unit's incoming weights and bias are divided by their norm and its outgoing weights multiplied by it (Neyshabur et
al., Path-SGD, 2015, eq. 3); where only the sign is free, the sum of the cubes of incoming weights and bias is made
positive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from wsrl.canonical.norms import Fold
from wsrl.canonical.rows import forget_pages, read_whole, row_chunks
from wsrl.checkpoint import Tensor
from wsrl.wiring.wiring import Segment, Wiring

SMALLEST = 1e-30  # units whose incoming weights have a smaller norm are dead and left as they are


@dataclass
class Scaling:
    """Tensors with vectors along their axes that they are multiplied by.

    Attributes:
      tensors: before the multiplication.
      along: (tensor, axis) -> one factor an entry, float64.
    """

    tensors: Mapping[str, Tensor]
    along: dict[tuple[str, int], Float64[np.ndarray, "entries"]] = field(default_factory=dict)

    def multiply(self, tensor: str, axis: int, factors: Float64[np.ndarray, "entries"]) -> None:
        """Multiplies an axis by one factor an entry."""
        self.along[tensor, axis] = self.along.get((tensor, axis), 1.0) * factors

    def apply(self, tensor: str, rows: np.ndarray, first: int) -> np.ndarray:
        """Multiplies rows of a tensor, from row `first` on, along all axes; keeps their dtype."""
        for axis in range(rows.ndim):
            factors = self.along.get((tensor, axis))
            if factors is not None:
                part = factors[first : first + len(rows)] if axis == 0 else factors
                rows = rows * part.astype(rows.dtype).reshape(-1, *[1] * (rows.ndim - axis - 1))
        return rows


@dataclass(frozen=True)
class Step:
    """How the scale or the sign of one group is fixed.

    Attributes:
      group, kind: its name, and `positive` or `sign`.
      size: its units.
      tensor, axis, bias: weights that measure it, and what is added to what they write.
      segments: of that axis.
      power: to which the factor goes there.
      scaled: (tensor, axis) -> segments, of all that it scales.
    """

    group: str
    kind: str
    size: int
    tensor: str
    axis: int
    bias: str | None
    segments: tuple[Segment, ...]
    power: int
    scaled: Mapping[tuple[str, int], tuple[Segment, ...]]


def plan_scales(wiring: Wiring, folds: Sequence[Fold]) -> list[Step]:
    """Returns the steps that fix the scales and signs of a wiring's groups, in the order in which they are to be done.

    A group is measured by the first weights that write it and whose own inputs have been measured before, so its
    factors depend on no other group's. A group that nothing but itself feeds stays as it is.
    """
    powers = _powers(wiring, folds)
    shifts = {fold.weight: fold.fields.get("shift", fold.fields["mean"]) for fold in folds}
    waiting = {name for name, group in wiring.groups.items() if group.scale != "none"}
    writers = [
        (name, axis, shifts.get(name, bias if len(axes) == 1 else None))
        for operation in wiring.operations
        for name, axes, bias in operation.weights()
        for axis in axes
        if len(wiring.shapes[name]) > 1 and (name, axis) in powers
    ]
    steps: list[Step] = []
    while waiting:
        ready = (
            (group, name, axis, bias)
            for name, axis, bias in writers
            for group in sorted(waiting)
            if _power(powers[name, axis], group) > 0 and not _waits(powers, wiring, name, axis, waiting)
        )
        found = next(ready, None)
        if found is None:
            return steps
        group, name, axis, bias = found
        waiting.remove(group)
        scaled = {key: own for key, own in powers.items() if any(s.group == group and s.power for s in own)}
        segments, power = wiring.axes[name][axis] or (), _power(powers[name, axis], group)
        own = wiring.groups[group]
        steps.append(Step(group, own.scale, own.size, name, axis, bias, segments, power, scaled))
    return steps


def fix_scales(scaling: Scaling, steps: Sequence[Step]) -> None:
    """Adds the factors that the steps ask for to what tensors are multiplied by."""
    for step in steps:
        factors = _measure(scaling, step) ** (1 / step.power)
        for (name, axis), segments in step.scaled.items():
            scaling.multiply(name, axis, _spread(segments, step.group, factors))
        forget_pages(scaling.tensors[step.tensor])


def _powers(wiring: Wiring, folds: Sequence[Fold]) -> dict[tuple[str, int], tuple[Segment, ...]]:
    """(tensor, axis) -> segments. Weights before a folded norm take over the powers of its gain, or of its shift."""
    powers = {(n, a): axis for n, axes in wiring.axes.items() for a, axis in enumerate(axes) if axis is not None}
    for fold in folds:
        own = fold.fields.get("gain", fold.fields.get("shift"))
        if own is not None:
            powers[fold.weight, fold.axis] = powers.get((own, 0), ())
            powers[fold.fields.get("shift", fold.fields["mean"]), 0] = powers.get((own, 0), ())
        for name in (fold.fields.get("gain"), fold.fields["variance"], fold.bias):
            powers.pop((name or "", 0), None)
        if "shift" in fold.fields:
            powers.pop((fold.fields["mean"], 0), None)
    return powers


def _power(segments: tuple[Segment, ...], group: str) -> int:
    return max((s.power for s in segments if s.group == group), default=0)


def _waits(powers: Mapping, wiring: Wiring, name: str, axis: int, waiting: set[str]) -> bool:
    """Whether another axis of a tensor is scaled by a group that has not been measured."""
    others = (powers.get((name, a), ()) for a in range(len(wiring.shapes[name])) if a != axis)
    return any(s.group in waiting and s.power for segments in others for s in segments)


def _measure(scaling: Scaling, step: Step) -> Float64[np.ndarray, "units"]:
    """Norms, or signs, of the weights and biases that go into each unit."""
    positive = step.kind == "positive"
    parts = []
    for first, _, rows in row_chunks(scaling.tensors[step.tensor]):
        values = scaling.apply(step.tensor, rows.astype(np.float64), first)
        values = np.moveaxis(values, step.axis, 0).reshape(values.shape[step.axis], -1)
        parts.append((values**2 if positive else values**3).sum(1))
    total = np.concatenate(parts) if step.axis == 0 else np.sum(parts, axis=0)
    if step.bias is not None:
        values = scaling.apply(step.bias, read_whole(scaling.tensors[step.bias]).astype(np.float64), 0)
        total = total + (values**2 if positive else values**3)
    units = _fold(step.segments, step.group, total, step.size)
    if not positive:
        return np.where(units < 0, -1.0, 1.0)
    norm = np.sqrt(units)
    return np.where(norm > SMALLEST, norm, 1.0)


def _fold(
    segments: tuple[Segment, ...], group: str, entries: Float64[np.ndarray, "n"], size: int
) -> Float64[np.ndarray, "units"]:
    """Sums what an axis holds of each unit of a group."""
    units, start = np.zeros(size), 0
    for s in segments:
        if s.group == group:
            units += entries[start : start + s.length].reshape(s.outer, s.size, s.inner).sum((0, 2))
        start += s.length
    return units


def _spread(
    segments: tuple[Segment, ...], group: str, factors: Float64[np.ndarray, "units"]
) -> Float64[np.ndarray, "n"]:
    """What an axis is multiplied by to divide the units of a group by their factors."""
    parts = [
        np.broadcast_to((factors ** -float(s.power))[:, None], (s.outer, s.size, s.inner)).ravel()
        if s.group == group
        else np.ones(s.length)
        for s in segments
    ]
    return np.concatenate(parts)
