"""Which axes of a weight are read and which are written: where a layer's inputs and outputs lie.

A claim does not tell, and formats differ: PyTorch keeps [out, in, taps], Flax and Keras [taps, in, out].
"""

import re
from dataclasses import dataclass

from wsrl.wiring.claim import Claim, Module

BIASES = {"weight": "bias", "kernel": "bias", "w": "b", "value": "bias"}


@dataclass(frozen=True)
class Direction:
    """Of one tensor with two or more axes.

    Attributes:
      reads, writes: its axes, in their order.
      bias: tensor that is added to what it writes, one number an entry of `writes`.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    bias: str | None = None


def field_of(tensor: str) -> str:
    """Last name of a tensor's path."""
    return re.split(r"[./]", tensor)[-1].removesuffix(":0")


def path_of(tensor: str) -> tuple[str, ...]:
    """Names of a tensor's path without the last one, and without the collections of Flax."""
    return tuple(p for p in re.split(r"[./]", tensor)[:-1] if p not in ("params", "batch_stats"))


def directions(claim: Claim, module: Module) -> dict[str, Direction]:
    """Returns the directions of the tensors of a module that have two or more axes and are no biases."""
    own = [name for name in module.tensors if name not in claim.ignored]
    biases = {name: bias for name in own if (bias := _bias_name(name)) in own and len(claim.shapes[name]) > 1}
    return {
        name: _direction(claim, module, name, biases.get(name))
        for name in own
        if len(claim.shapes[name]) > 1 and name not in biases.values()
    }


def _bias_name(name: str) -> str | None:
    field = field_of(name)
    found = re.match(r"(.*?)(kernel|weight|w|value)(?=$|_)(.*)", field)
    if not found:
        return None
    before, word, after = found.groups()
    start = name.rindex(field)
    return name[:start] + before + BIASES[word] + after + name[start + len(field) :]


def _direction(claim: Claim, module: Module, name: str, bias: str | None) -> Direction:
    shape, axes = claim.shapes[name], claim.axes[name]
    every = tuple(range(len(shape)))

    def writing(*written: int, bias: str | None = None) -> Direction:
        return Direction(tuple(a for a in every if a not in written), written, bias)

    usual = _usual(claim, module, name)
    if bias is not None:
        width = len(claim.shapes[bias])
        fits = [
            every[a : a + width]
            for a in range(len(shape) - width + 1)
            if shape[a : a + width] == claim.shapes[bias] and axes[a : a + width] == claim.axes[bias]
        ]
        if fits:
            return writing(*(usual if usual in fits else fits[-1]), bias=bias)
    found = writing(*usual)
    if _roles(claim, name, found.writes) == {"input"} and _roles(claim, name, found.reads) - {"input"}:
        return Direction(found.writes, found.reads)  # inputs are not written
    return found


def _roles(claim: Claim, name: str, axes: tuple[int, ...]) -> set[str]:
    """Roles of the groups along some axes of a tensor."""
    segments = (s for a in axes for s in claim.axes[name][a] or ())
    return {claim.groups[s.group].role for s in segments if s.group is not None}


def _usual(claim: Claim, module: Module, name: str) -> tuple[int, ...]:
    """Axes that are written by the conventions of the formats."""
    axes = claim.axes[name]
    last = len(axes) - 1
    field = field_of(name)
    torch = "weight" in field and "/" not in name
    if module.kind == "embedding" or (not torch and last == 1):
        return (last,)
    if torch:
        return (1,) if "transpose" in module.kind else (0,)
    grouped = [a for a, axis in enumerate(axes) if axis is not None]
    if len(grouped) > 1:
        return tuple(range(grouped[-1], last + 1))
    return (last,)
