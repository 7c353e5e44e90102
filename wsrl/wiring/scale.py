"""Which units may be scaled: those of plain chains, where the activation is known.

Only where every layer is linear or a convolution does one layer write a group and one read it with nothing but the
activation between them; norms, sums and products are left alone.
"""

from dataclasses import replace

from wsrl.wiring.wiring import Axis, Wiring

SCALES = {"relu": "positive", "leaky_relu": "positive", "tanh": "sign"}


def with_scales(wiring: Wiring, activation: object) -> Wiring:
    """Returns the wiring with the scalings that all hidden units of a plain chain allow, else as it is.

    Args:
      activation: that all hidden layers share, as the file says; any other value leaves the wiring as it is.
    """
    scale = SCALES.get(str(activation).lower())
    if scale is None or {operation.type for operation in wiring.operations} - {"linear", "conv", "transposed conv"}:
        return wiring
    powers: dict[tuple[str, int], int] = {}
    for operation in wiring.operations:
        for sides, sign in ((operation.writes, 1), (operation.reads, -1)):
            for side in sides:
                powers[side] = powers.get(side, 0) + sign
    uses: dict[str, list[int]] = {}
    for name, axes in wiring.axes.items():
        for number, axis in enumerate(axes):
            for segment in axis or () if len(axes) > 1 else ():
                if segment.group is not None:
                    uses.setdefault(segment.group, []).append(powers.get((name, number), 0))
    chained = {g for g, found in uses.items() if wiring.groups[g].permutable and sorted(found) == [-1, 1]}

    def scaled(axis: Axis, power: int) -> Axis:
        return axis and tuple(replace(s, power=power) if s.group in chained else s for s in axis)

    axes = {
        name: tuple(scaled(axis, powers.get((name, i), 1)) for i, axis in enumerate(all_axes))
        for name, all_axes in wiring.axes.items()
    }
    groups = {name: replace(g, scale=scale) if name in chained else g for name, g in wiring.groups.items()}
    return replace(wiring, groups=groups, axes=axes)
