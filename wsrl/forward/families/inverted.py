"""Networks of separable convolutions: their blocks, and how these follow one another.

Sandler et al. 2018 (inverted residuals), Howard et al. 2019, Tan and Le 2019 and 2021. Libraries name the same blocks
differently, so each brings its blocks into this form, see `mobile`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wsrl.forward.families.blocks import squeeze_excite
from wsrl.forward.families.module import Module, Padding, activate
from wsrl.forward.families.value import Value, concat


@dataclass(frozen=True)
class Unit:
    """A convolution with its norm, or a squeeze and excitation.

    Attributes:
      conv: the convolution; one that is a list mixes kernels, each of which reads some of the channels.
      norm: its norm, if any.
      excite: the squeeze and excitation instead, with the names of its two layers.
    """

    conv: Module | None = None
    norm: Module | None = None
    excite: tuple[Module, str, str] | None = None

    @property
    def kernel(self) -> int:
        """Pixels a side of the smallest kernel; 0 for a squeeze and excitation."""
        if self.conv is None:
            return 0
        first = self.conv if "weight" in self.conv else self.conv[0]
        return min(first.shape("weight")[2:])


Block = Sequence[Unit]


@dataclass(frozen=True)
class Kind:
    """What names and shapes of a network of separable convolutions do not tell.

    Attributes:
      activation: of the convolutions of blocks; outer: of those before and after the blocks, "" for the same.
      early: stages at the beginning that have ReLUs instead.
      excite: activation within squeeze and excitation, "" for that of the block; gate: of it.
      linear: whether no activation follows the last convolution of a block; where one does there are no shortcuts.
      epsilon: of norms.
      strides: of the first block of each stage; empty for those that are usual for the number of stages.
      first_skips: whether the first block may have a shortcut.
    """

    activation: str = "relu"
    outer: str = ""
    early: int = 0
    excite: str = ""
    gate: str = "sigmoid"
    linear: bool = True
    epsilon: float = 1e-5
    strides: tuple[int, ...] = ()
    first_skips: bool = True


STRIDES = {5: (1, 2, 2, 2, 2), 6: (1, 2, 2, 2, 1, 2), 7: (1, 2, 2, 2, 1, 2, 1)}


@dataclass(frozen=True)
class Layout:
    """A network as a stem, stages of blocks and what follows them before the pooling."""

    stem: Unit
    stages: Sequence[Sequence[Block]]
    last: Unit | None


def features(m: Module, layout: Layout, kind: Kind, usual: int, shrinking: dict[int, Padding] | None = None) -> Value:
    """Writes a network down up to its last map.

    Args:
      usual: side of images where nothing tells it, in pixels.
      shrinking: block, counted from 0 -> padding of its convolution with a stride, where it is a special one.
    """
    net = m.net
    net.epsilon["batch norm"] = net.choose("epsilon", kind.epsilon, "batch_norm_eps", "layer_norm_eps")
    act = net.choose("activation", kind.activation, "hidden_act")
    strides = kind.strides or STRIDES.get(len(layout.stages), ())
    if len(strides) != len(layout.stages):
        raise ValueError(f"strides of {len(layout.stages)} stages are not known")
    net.assume("strides", "2, " + ", ".join(map(str, strides)))
    net.assume("padding", "what the last window lacks" if net.same else "half the kernel")
    x = net.image(_fan_in(layout.stem), usual)
    x = activate(_applied(layout.stem, x, 2), kind.outer or act)
    number = 0
    for i, (stage, stride) in enumerate(zip(layout.stages, strides, strict=True)):
        own = "relu" if i < kind.early else act
        for j, block in enumerate(stage):
            skips = kind.linear and (kind.first_skips or i > 0)
            padding = (shrinking or {}).get(number)
            x = _block(block, x, kind, own, stride if j == 0 else 1, skips, padding)
            number += 1
    return x if layout.last is None else activate(_applied(layout.last, x, 1), kind.outer or act)


def _block(units: Block, x: Value, kind: Kind, act: str, stride: int, skips: bool, padding: Padding) -> Value:
    spatial = next((u for u in units if u.kernel > 1), units[0])
    skip = x
    for unit in units:
        if unit.excite is not None:
            x = squeeze_excite(*unit.excite[:1], x, *unit.excite[1:], kind.excite or act, kind.gate)
            continue
        shrinks = unit is spatial and stride > 1
        x = _applied(unit, x, stride if shrinks else 1, padding if shrinks else None)
        x = activate(x, act) if unit is not units[-1] or not kind.linear or len(units) == 1 else x
    return x + skip if skips and stride == 1 and x.shape == skip.shape else x


def _fan_in(unit: Unit) -> int:
    return unit.conv.shape("weight")[1] if unit.conv else 0


def _applied(unit: Unit, x: Value, stride: int, padding: Padding = None) -> Value:
    assert unit.conv is not None
    if "weight" in unit.conv:
        x = unit.conv.conv(x, "", stride, padding)
    else:  # kernels of several sizes, each for a part of the channels, the first for what is left over
        parts = unit.conv.listed()
        sizes = [x.shape[0] // len(parts)] * len(parts)
        sizes[0] += x.shape[0] - sum(sizes)
        x = concat([p.conv(y, "", stride) for p, y in zip(parts, x.split(0, *sizes), strict=True)], 0)
    return x if unit.norm is None else unit.norm.norm(x)
