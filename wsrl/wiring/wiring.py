"""The wiring of a network: groups of interchangeable neurons, and the operations that read and write them.

`Wiring.to_json` gives, and `wsrl inspect --json` prints, this form:

    {"parameters": 5908,
     "groups": {"g1": {"size": 64, "role": "hidden", "permutable": true, "scale": "none"}},
     "tensors": {"0.weight": {"shape": [64, 16], "axes": [[{"group": "g1", "outer": 1, "size": 64, "inner": 1,
                                                            "power": 0}], null]}},
     "coverage": {"graph": 1.0, "sketch": 0.0, "ignored": 0.0},
     "operations": [{"name": "0", "type": "linear", "tensors": {"weight": "0.weight", "bias": "0.bias"},
                     "reads": [["0.weight", 1]], "writes": [["0.weight", 0], ["0.bias", 0]], "inputs": [],
                     "source": "names", "facts": {"activation": {"value": "relu", "source": "config"}}}],
     "products": [...], "ignored": [], "warnings": ["..."]}

An axis is null where it holds no neurons, otherwise a list of segments that lie one after the other and add up to its
length. A segment covers outer x size x inner entries; the group's neurons are the middle. Operations stand in the order
in which data flows through them.
"""

import re
from collections.abc import Iterator, Mapping
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


SOURCES = ("graph", "config", "metadata", "names", "shapes", "assumed")

Value = bool | int | float | str | tuple[int, ...] | None
TensorAxis = tuple[str, int]


@dataclass(frozen=True)
class Fact:
    """What is known of an operation, and where it comes from.

    Attributes:
      value: None where it is not known and nothing is put in its place.
      source: `graph` (of an ONNX or TFLite file), `config` (`config.json` or Keras' configuration), `metadata` (of the
        file or its manifest), `names` and `shapes` (of tensors), or `assumed`.
    """

    value: Value
    source: str


@dataclass(frozen=True)
class Operation:
    """A layer: its tensors, and which of their axes it reads and writes.

    Attributes:
      name: path of the module, or name of the graph's node.
      type: `linear`, `conv`, `transposed conv`, `norm`, `batch norm`, `attention` (a projection of it), `embedding`,
        `recurrent`, `parameter` (a bare tensor), `low rank`, `state space`, `experts`, or the graph's own word.
      tensors: role -> tensor. The roles are `weight`, `bias`, of norms `gain`, `shift`, `mean` and `variance`, `value`
        of a bare tensor; with several weights each has the module's own word for it, that of its bias being the same
        with `bias` for `weight`.
      reads, writes: axes along which entries belong to what comes in, and to what goes out. Those of a norm and of a
        depthwise kernel do both.
      inputs: indices of the earlier operations whose outputs come in: alone, summed, or joined; empty where the input
        of the network does.
      source: of `reads`, `writes`, `inputs` and the place in the order, see Fact.
      facts: `activation`, `epsilon`, `groups`, `heads`, `kernel`, `key_value_heads`, `padding`, `part` (of attention:
        `q`, `k`, `v`, `o` or several of them), `pooling` and `stride`, where there is something to say. Of what follows
        before the next operation further `window`, `pooling_stride`, `pooling_padding` and `pooled_activation` of the
        pooling, `sum_activation` after the sum with other inputs of an operation, `flattened` (`channels first` or
        `channels last`), `weightless` (how many modules without tensors) and `followed_by`, the word of the file for
        what is none of these; of the first operation `input` ([height, width, channels]) and `preceded_by`.
    """

    name: str
    type: str
    tensors: Mapping[str, str]
    reads: tuple[TensorAxis, ...] = ()
    writes: tuple[TensorAxis, ...] = ()
    inputs: tuple[int, ...] = ()
    source: str = "names"
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def weights(self) -> Iterator[tuple[str, tuple[int, ...], str | None]]:
        """Yields the tensors that have axes which are written, but for biases: (tensor, axes, bias added to them)."""
        biases = {self.tensors.get(bias_role(role) or "") for role in self.tensors}
        for role, tensor in self.tensors.items():
            axes = self.axes_of(tensor, self.writes)
            if axes and tensor not in biases:
                yield tensor, axes, self.tensors.get(bias_role(role) or "")

    @staticmethod
    def axes_of(tensor: str, axes: tuple[TensorAxis, ...]) -> tuple[int, ...]:
        """Those axes that are a tensor's."""
        return tuple(axis for name, axis in axes if name == tensor)


def bias_role(role: str) -> str | None:
    """Returns the role of the bias that is added to what a weight of a role writes; None for other roles."""
    return role.replace("weight", "bias").replace("kernel", "bias") if re.search("weight|kernel", role) else None


@dataclass(frozen=True)
class Wiring:
    """The groups, the axes of every tensor, the operations, and what was not understood.

    Attributes:
      groups: id -> group.
      shapes: tensor -> shape.
      axes: tensor -> one entry an axis.
      operations: in the order in which data flows; inputs of an operation come before it.
      products: pairs of matrices with a GL(dim) symmetry a head.
      ignored: tensors that say nothing of neurons (counters, buffers).
      warnings: what was not understood, a sentence each.
    """

    groups: Mapping[str, Neurons]
    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, tuple[Axis, ...]]
    operations: tuple[Operation, ...] = ()
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
        """Returns the wiring as plain JSON values."""

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
            "operations": [_operation_to_json(operation) for operation in self.operations],
            "products": [
                {k: dict(vars(v)) if isinstance(v, Slice) else v for k, v in vars(p).items()} for p in self.products
            ],
            "ignored": list(self.ignored),
            "warnings": list(self.warnings),
        }


def _operation_to_json(operation: Operation) -> dict:
    return {
        **vars(operation),
        "tensors": dict(operation.tensors),
        "reads": [list(axis) for axis in operation.reads],
        "writes": [list(axis) for axis in operation.writes],
        "inputs": list(operation.inputs),
        "facts": {
            name: {"value": list(f.value) if isinstance(f.value, tuple) else f.value, "source": f.source}
            for name, f in operation.facts.items()
        },
    }
