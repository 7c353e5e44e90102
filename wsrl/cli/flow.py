"""What goes into a module and what comes out of it, read off the axes of its tensors.

A claim says what an axis holds, not whether the module reads or writes it. Conventions tell: a bias lies along the
outputs; PyTorch puts the outputs of a weight first, Flax and Keras (`kernel`) and embeddings last; the taps of a
convolution lie on the other side. For people to read: nothing is computed from it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from wsrl.wiring.claim import Axis, Claim, Module, Segment

OUTPUTS_LAST = re.compile(r"embed|position|token")


@dataclass(frozen=True)
class Flow:
    """What a module reads and writes, each group once; `group` is None for units that are in no group."""

    inputs: tuple[Segment, ...]
    outputs: tuple[Segment, ...]


def module_flow(module: Module, claim: Claim) -> Flow:
    """Returns what the module reads and writes; a module of vectors alone, such as a norm, writes what it reads."""
    weights = [name for name in module.tensors if len(claim.shapes[name]) > 1]
    if not weights:
        both = _merge(axis for name in module.tensors for axis in _described(name, claim))
        return Flow(both, both)
    inputs: list[Axis] = []
    outputs: list[Axis] = []
    for name in weights:
        axes = _described(name, claim)
        written = _output_axes(name, axes, module, claim)
        for i, axis in enumerate(axes):
            (outputs if i in written else inputs).append(axis)
    return Flow(_merge(inputs), _merge(outputs))


def _described(name: str, claim: Claim) -> list[Axis]:
    """The axes of a tensor; a fixed axis longer than one becomes a stretch without a group."""
    return [
        axis if axis is not None or length == 1 else (Segment(None, length),)
        for axis, length in zip(claim.axes[name], claim.shapes[name], strict=True)
    ]


def _output_axes(name: str, axes: list[Axis], module: Module, claim: Claim) -> set[int]:
    """Indices of a weight's axes that the module writes; the taps of a convolution are taken out of `axes`."""
    last = len(axes) - 1
    kernel = re.split(r"[./]", name)[-1].startswith("kernel")
    if "conv" in module.kind and last > 1:
        first_tap, end = (0, last - 1) if kernel else (2, last + 1)
        axes[first_tap:end] = [None] * (end - first_tap)
        last = last if kernel else 1
    for other in module.tensors:
        bias = _described(other, claim)
        if len(bias) < len(axes):
            fits = [at for at in range(last + 2 - len(bias)) if axes[at : at + len(bias)] == bias]
            if len(fits) == 1:
                return set(range(fits[0], fits[0] + len(bias)))
    only_last = module.kind not in ("linear", "conv") and all(claim.axes[name][i] is None for i in range(last))
    return {last} if kernel or only_last or OUTPUTS_LAST.search(module.kind) else {0}


def _merge(axes: Iterable[Axis]) -> tuple[Segment, ...]:
    """The groups of all axes, each once, then the lengths without a group."""
    segments = [segment for axis in axes for segment in axis or ()]
    groups = {s.group: Segment(s.group, s.size) for s in segments if s.group is not None}
    fixed = {s.length: Segment(None, s.length) for s in segments if s.group is None}
    return (*groups.values(), *fixed.values())
