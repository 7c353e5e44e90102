"""Which units may be scaled: those that one layer writes and one reads with nothing but the activation in between.

Where names alone tell the order, only plain chains are trusted, of linear layers and convolutions that share one known
activation; norms, sums and products are left alone. A graph shows what lies between two layers.
"""

from collections.abc import Mapping
from dataclasses import replace

from wsrl.wiring.wiring import Axis, TensorAxis, Wiring

SCALES = {"relu": "positive", "leaky_relu": "positive", "tanh": "sign"}
NORM = "batch norm"
LAYERS = {"linear", "conv", "transposed conv"}


def scales_of_chain(wiring: Wiring, activation: object) -> dict[int, str]:
    """Returns the scale of what each operation writes, where all are one plain chain; nothing for other networks.

    Args:
      activation: that all hidden layers share, as the file says; any other value allows no scale.
    """
    scale = SCALES.get(str(activation).lower())
    plain = all(operation.type in LAYERS for operation in wiring.operations)
    return dict.fromkeys(range(len(wiring.operations)), scale) if scale is not None and plain else {}


def with_scales(wiring: Wiring, scales: Mapping[int, str]) -> Wiring:
    """Returns the wiring with the scalings that hidden units allow.

    Args:
      scales: operation -> `positive` or `sign`, where what it writes may be scaled as long as a single operation reads
        it.
    """
    if not scales:
        return wiring
    powers: dict[TensorAxis, int] = {}
    writers: dict[TensorAxis, int] = {}
    for i, operation in enumerate(wiring.operations):
        writers |= dict.fromkeys(operation.writes, i)
        for sides, sign in ((operation.writes, 1), (operation.reads, -1)):
            for side in sides:
                powers[side] = powers.get(side, 0) + sign
    uses: dict[str, list[int]] = {}
    written: dict[str, int] = {}
    normed = _behind_norms(wiring, scales, powers)
    for name, axes in wiring.axes.items():
        for side in ((name, number) for number in range(len(axes))):
            for segment in axes[side[1]] or () if len(axes) > 1 else ():
                if segment.group is not None:
                    uses.setdefault(segment.group, []).append(powers.get(side, 0))
                    if powers.get(side) == 1:
                        written[segment.group] = writers[side]
    chained = {
        group: scales[written[group]]
        for group, found in uses.items()
        if wiring.groups[group].permutable and sorted(found) == [-1, 1] and written[group] in scales
    }
    chained |= {
        group: scales[i]
        for group, i in normed.items()
        if wiring.groups[group].permutable and sorted(uses.get(group, ())) == [-1, 0]
    }

    def scaled(axis: Axis, power: int) -> Axis:
        return axis and tuple(replace(s, power=power) if s.group in chained else s for s in axis)

    axes = {
        name: tuple(scaled(axis, powers.get((name, i), 1)) for i, axis in enumerate(all_axes))
        for name, all_axes in wiring.axes.items()
    }
    groups = {name: replace(g, scale=chained.get(name, g.scale)) for name, g in wiring.groups.items()}
    return replace(wiring, groups=groups, axes=axes)


def _behind_norms(wiring: Wiring, scales: Mapping[int, str], powers: dict[TensorAxis, int]) -> dict[str, int]:
    """Finds the groups that batch norms write, and corrects `powers` for these.

    Gain and shift alone are scaled with the units: what lies before the norm, its statistics too, stays as it is.
    """
    found: dict[str, int] = {}
    for i in scales:
        norm = wiring.operations[i]
        axis = wiring.axes.get(norm.tensors.get("gain", ""), (None,))[0]
        if norm.type != NORM or len(norm.inputs) != 1 or axis is None or len(axis) != 1 or axis[0].group is None:
            continue
        before = wiring.operations[norm.inputs[0]]
        if before.type not in LAYERS:
            continue
        powers |= dict.fromkeys(before.writes, 0)
        for role, name in norm.tensors.items():
            powers[name, 0] = int(role in ("gain", "shift"))
        found[axis[0].group] = i
    return found
