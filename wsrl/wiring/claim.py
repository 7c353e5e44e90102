"""The claim: which axis of which tensor holds which group of interchangeable neurons.

The JSON form:

    {"parameters": 5908,
     "groups": {"g1": {"size": 64, "role": "hidden", "permutable": true, "scale": "none"}},
     "tensors": {"0.weight": {"shape": [64, 16], "axes": [[{"group": "g1", "outer": 1, "size": 64, "inner": 1,
                                                            "power": 0}], null]}},
     "coverage": {"graph": 1.0, "sketch": 0.0, "ignored": 0.0},
     "modules": [{"name": "0", "kind": "linear", "tensors": ["0.weight", "0.bias"]}],
     "products": [...], "warnings": ["..."]}

An axis is null where it holds no neurons, otherwise a list of segments that lie one after the other and add up to its
length. A segment covers outer x size x inner entries; the group's neurons are the middle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod


@dataclass(frozen=True)
class Neurons:
    """A neuron group.

    Attributes:
      size: interchangeable units.
      role: `input`, `hidden` or `output`.
      permutable: whether any permutation of the units leaves the network's outputs as they are.
      scale: which scalings of a unit do: `positive`, `sign` or `none`.
    """

    size: int
    role: str
    permutable: bool
    scale: str = "none"


@dataclass(frozen=True)
class Segment:
    """A stretch of an axis, read as [outer, size, inner]; the neurons of `group` are the middle.

    `group` is None for a stretch that holds none. The scale symmetry multiplies by factor ** power.
    """

    group: str | None
    size: int
    outer: int = 1
    inner: int = 1
    power: int = 0

    @property
    def length(self) -> int:
        """Entries that it covers."""
        return self.outer * self.size * self.inner


Axis = tuple[Segment, ...] | None


@dataclass(frozen=True)
class Slice:
    """Entries start to stop of one axis of a tensor."""

    tensor: str
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Product:
    """Two matrices that the function sees only multiplied, head by head, so that GL(dim) acts on each head.

    The entries of `left` are [heads, dim], those of `right` [heads, repeat, dim]: with grouped-query attention
    `repeat` query heads share one key head. Value and output are one product, key and query another (only where nothing
    such as a rotary embedding or a norm lies between them), the two matrices of a LoRA pair another (heads = 1).

    Attributes:
      left, right: where the shared axis lies in either tensor.
      left_bias, right_bias: biases along the shared axis, if any.
    """

    left: Slice
    right: Slice
    heads: int
    dim: int
    repeat: int = 1
    left_bias: Slice | None = None
    right_bias: Slice | None = None


@dataclass(frozen=True)
class Module:
    """The tensors of one layer: its path, what it is (`linear`, `conv`, `norm`, ...), and their names."""

    name: str
    kind: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """The groups, the axes of every tensor, and what was not understood.

    Attributes:
      groups: id -> group.
      shapes: tensor -> shape.
      axes: tensor -> one entry an axis.
      modules: layers in the natural order of their names.
      products: pairs of matrices with a GL(dim) symmetry a head.
      ignored: tensors that say nothing of neurons (counters, buffers).
      warnings: what was not understood, a sentence each.
    """

    groups: Mapping[str, Neurons]
    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, tuple[Axis, ...]]
    modules: tuple[Module, ...] = ()
    products: tuple[Product, ...] = ()
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def coverage(self) -> dict[str, float]:
        """Shares of the parameters in the graph (an axis in a permutable group), sketched, and ignored."""
        permutable = {name for name, group in self.groups.items() if group.permutable}

        def wired(name: str) -> bool:
            return any(s.group in permutable for axis in self.axes[name] for s in axis or ())

        total = max(self.parameters, 1)
        graph = sum(prod(shape) for name, shape in self.shapes.items() if wired(name)) / total
        ignored = sum(prod(self.shapes[name]) for name in self.ignored) / total
        return {"graph": graph, "sketch": max(0.0, 1.0 - graph - ignored), "ignored": ignored}

    def to_json(self) -> dict:
        """Returns the claim as plain JSON values."""

        def axis(segments: Axis) -> list[dict] | None:
            return None if segments is None else [dict(vars(s)) for s in segments]

        return {
            "parameters": self.parameters,
            "groups": {name: dict(vars(group)) for name, group in self.groups.items()},
            "tensors": {
                name: {"shape": list(shape), "axes": [axis(a) for a in self.axes[name]]}
                for name, shape in self.shapes.items()
            },
            "coverage": self.coverage,
            "modules": [{**vars(m), "tensors": list(m.tensors)} for m in self.modules],
            "products": [
                {k: dict(vars(v)) if isinstance(v, Slice) else v for k, v in vars(p).items()} for p in self.products
            ],
            "ignored": list(self.ignored),
            "warnings": list(self.warnings),
        }
