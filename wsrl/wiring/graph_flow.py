"""Wiring of files that carry their graph (ONNX, TFLite): dims are followed from node to node.

The axes of a value are a list with an entry each: dims (`Value`), or None for an axis whose order matters or that
holds no neurons. Where a node ties a dim to None the dim is fixed, and so is all that a node of an unknown kind reads:
nothing is claimed that the graph does not show.

Operators: https://onnx.ai/onnx/operators and the TFLite schema.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from wsrl.wiring.dims import Dim, Value, fix, mark, size_of, tie_values, view
from wsrl.wiring.graph_attention import AttentionTrace
from wsrl.wiring.graph_facts import ROLES, TYPES, Readers, facts_of_node
from wsrl.wiring.graph_following import following
from wsrl.wiring.graph_numbers import Counted, counted, joined_constants
from wsrl.wiring.scale import LAYERS, NORM
from wsrl.wiring.tree import Shape
from wsrl.wiring.wiring import Fact, Operation, TensorAxis

Axis = Value | None
Axes = list[Axis]
Rule = Callable[["GraphFlow", Mapping], Axes | None]

READ_FLAT = ("Gemm", "MatMul", "FULLY_CONNECTED")  # operators that may read a flattened value
PASS_FLAT = (  # and that hand it on
    *("Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Gelu", "Identity", "Dropout", "Cast", "Clip", "HardSwish"),
    *("RELU", "RELU6", "TANH", "LOGISTIC", "GELU", "HARD_SWISH"),
)
RANK_OF_WEIGHT = ("Conv", "ConvTranspose", "Gemm", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MatMul")
BRANCHES = ("then_branch", "else_branch")
SPREADS = (
    "Expand",
    "Cast",
    "Reshape",
    "Unsqueeze",
    "Identity",
    "Slice",
    "Tile",
    "Squeeze",
    "Concat",
)  # keep it uniform
IGNORED = ("Shape", "SHAPE", "Constant", "ConstantOfShape", "Range")  # they read no numbers of the network


@dataclass(eq=False)
class _Layer:
    """A node that reads tensors; see Operation. `output` is what it returns, its bias added."""

    node: Mapping
    tensors: dict[str, str]
    inputs: tuple[int, ...]
    output: str
    reads: list[TensorAxis] = field(default_factory=list)
    writes: list[TensorAxis] = field(default_factory=list)
    told: dict[str, Fact] = field(default_factory=dict)


class GraphFlow:
    """Follows dims through the nodes of a graph.

    Args:
      graph: `nodes`, `inputs`, `outputs`, `constants` as the readers return them, and `fixed`, the shapes of constants
        that are no tensors of the file.
      shapes: of the tensors of the file.
      rules: operator -> what it does to dims; None where it does not know.
    """

    def __init__(self, graph: Mapping, shapes: Mapping[str, Shape], rules: Mapping[str, Rule]):
        self.rules = rules
        self.graph = graph
        self.shapes = shapes
        self.constants = dict(graph.get("constants", {}))
        self.axes: dict[str, Axes] = {
            name: [(Dim(n),) if n > 1 else None for n in shape] for name, shape in shapes.items()
        }
        self.values: dict[str, Axes | None] = dict(self.axes)
        places = ((name, i, axis[0]) for name, axes in self.axes.items() for i, axis in enumerate(axes) if axis)
        self.untied = {id(dim): (name, i) for name, i, dim in places}  # where each of the tensors' own dims lies
        self.flat: dict[str, tuple[Value, bool]] = {}  # flattened values: (channels, whether they vary slowest)
        self.single: dict[str, frozenset[int]] = {}  # value -> axes of length 1, counted from the last, -1
        self.lengths: dict[str, dict[int, int]] = {}  # value -> axis -> how many recurrent directions lie along it
        self.numbers: set[str] = set()  # values made of shapes and small integers, which hold no units
        self.counted: dict[str, Counted] = {}  # of these: how many entries they have, and the last
        self.uniform: set[str] = set()  # values whose entries are all one number
        self.read: set[str] = set()
        self._layers: list[_Layer] = []
        self._running: _Layer | None = None
        self._origins: dict[str, tuple[int, ...]] = {}  # value -> operations that it comes from
        self._readers = Readers(graph)
        self._attention = AttentionTrace(shapes)
        self.warnings: list[str] = []

    def run(self) -> None:
        """Runs all nodes, then fixes what the network is fed and what it returns."""
        for value in self.graph["inputs"]:
            shape = value["shape"]
            axes = [(Dim(n, role="input"),) if isinstance(n, int) and n > 1 else None for n in shape or ()]
            self.values.setdefault(value["name"], axes if shape else None)
            single = frozenset(i - len(shape or ()) for i, n in enumerate(shape or ()) if n == 1)
            self.single.setdefault(value["name"], single)
        for name, shape in self.graph.get("fixed", {}).items():
            self.values[name] = [(Dim(n, role="input"),) if n > 1 else None for n in shape]
            self.single[name] = frozenset(i - len(shape) for i, n in enumerate(shape) if n == 1)
        for node in self.graph["nodes"]:
            self._run(node)
        for value in self.graph["outputs"]:
            for axis in self.values.get(value["name"]) or ():
                mark(axis or (), "output")
            mark(self.flat.get(value["name"], ((), True))[0], "output")
        for name in set(self.axes) - self.read:
            self._fix(name)

    def _run(self, node: Mapping) -> None:
        if not node["outputs"]:
            return
        if bodies := [node["attributes"].get(key) for key in BRANCHES if node["op"] == "If"]:
            self._branch(node, [body for body in bodies if isinstance(body, Mapping)])
            return
        rule = self.rules.get(node["op"])
        inputs = [name for name in node["inputs"] if name]
        self.read |= set(inputs)
        if node["op"] in IGNORED or all(self._is_known(name) for name in inputs):
            same = node["op"] == "ConstantOfShape" or (
                node["op"] in SPREADS and inputs[:1] and inputs[0] in self.uniform
            )
            self.uniform |= set(node["outputs"]) if same else set()
            self.numbers |= set(node["outputs"])
            if (joined := joined_constants(node, self.constants)) is not None:
                self.constants[node["outputs"][0]] = joined
            if (told := counted(node, self.counted, self.constants)) is not None:
                self.counted[node["outputs"][0]] = told
            return
        self._note(node)
        lost = [name for name in inputs if not self._is_known(name) and self.values.get(name) is None]
        known = not lost or (lost == inputs[:1] and len(inputs) > 1 and node["op"] in RANK_OF_WEIGHT)
        flattened = [name for name in inputs if name in self.flat]
        result: Axes | None = None
        if flattened and node["op"] in PASS_FLAT:
            self.flat |= {name: self.flat[flattened[0]] for name in node["outputs"]}
        if rule is not None and known and (not flattened or node["op"] in PASS_FLAT + READ_FLAT):
            try:
                result = rule(self, node)
            except (ValueError, IndexError, KeyError, TypeError):  # a graph that breaks the operator's own rules
                result = None
        if result is None:
            if node["op"] not in IGNORED:
                self.warnings.append(f"node {node['name'] or node['outputs'][:1]} ({node['op']}) is not understood")
            for name in inputs:
                self._fix(name)
        for name in node["outputs"]:
            self.values[name] = list(result) if result is not None else None

    def _is_known(self, name: str) -> bool:
        """Whether a value is made of shapes and small integers alone."""
        return name in self.numbers or name in self.uniform or name in self.constants

    def is_one_number(self, name: str) -> bool:
        """Whether all entries of a value without units are one number."""
        told = self.constants.get(name)
        return name in self.uniform or isinstance(told, int) or (isinstance(told, list | tuple) and len(set(told)) == 1)

    def _branch(self, node: Mapping, bodies: Sequence[Mapping]) -> None:
        """Runs the bodies of a branch; what they return is one."""
        self.read |= set(node["inputs"])
        for body in bodies:
            for inner in body["nodes"]:
                self._run(inner)
        for i, name in enumerate(node["outputs"]):
            ends = [body["outputs"][i]["name"] for body in bodies if i < len(body["outputs"])]
            self.read |= set(ends)
            values = [self.values.get(end) for end in ends]
            flattened = [end for end in ends if end in self.flat]
            ranks = {len(axes) for axes in values if axes is not None}
            if None in values or len(ranks) != 1 or flattened:
                for end in ends:
                    self._fix(end)
                self.values[name] = None
                continue
            joined = list(values[0] or ())
            for axes in values[1:]:
                joined = [self.tie(a, b) if a or b else None for a, b in zip(joined, axes or (), strict=True)]
            self.values[name] = joined
            self._origins[name] = tuple(dict.fromkeys(j for end in ends for j in self._origins.get(end, ())))

    def _note(self, node: Mapping) -> None:
        """Records a node that reads tensors as an operation, or passes on where its inputs come from."""
        weights = {i: name for i, name in enumerate(node["inputs"]) if name in self.shapes}
        origins = [i for name in node["inputs"] for i in self._origins.get(name, ())]
        self._running = None
        if weights:
            biased = self._biased(node, weights)
            if biased is not None:
                own = self._layers.index(biased)
                biased.tensors["bias"] = next(iter(weights.values()))
                biased.writes.append((biased.tensors["bias"], 0))
                biased.output = node["outputs"][0]
            else:
                own = len(self._layers)
                self._running = _Layer(node, self._roles(node, weights), tuple(sorted({*origins})), node["outputs"][0])
                self._layers.append(self._running)
            origins = [own]
        self._attention.follow(node, origins[0] if weights else None)
        for name in node["outputs"]:
            self._origins[name] = tuple(dict.fromkeys(origins))

    def _roles(self, node: Mapping, weights: Mapping[int, str]) -> dict[str, str]:
        roles = ROLES.get(TYPES.get(node["op"], ""), {})
        found: dict[str, str] = {}
        for place, name in weights.items():
            role = roles.get(place, "value")
            found[role if role not in found else f"{role}_{place}"] = name
        return found

    def _biased(self, node: Mapping, weights: Mapping[int, str]) -> "_Layer | None":
        """The layer that a vector is added to, if a node does no more than that."""
        others = [name for i, name in enumerate(node["inputs"]) if i not in weights]
        if node["op"] not in ("Add", "ADD") or len(weights) != 1 or len(others) != 1:
            return None
        shape = self.shapes[next(iter(weights.values()))]
        for layer in self._layers:
            if layer.output == others[0] and self._readers.only(layer.output) is not None:
                last = TYPES.get(layer.node["op"]) == "linear" or layer.node["op"].isupper()
                units = [self.shapes[name][axis] for name, axis in layer.writes]
                plain = layer.node["attributes"].get("activation", "NONE") == "NONE"
                return layer if last and plain and "bias" not in layer.tensors and [*shape] == units else None
        return None

    def reads(self, node: Mapping, place: int, axis: int) -> None:
        """Says that an axis of an input holds what comes into the operation, if that input is a tensor of the file."""
        self._direct(node, place, axis, "reads")

    def writes(self, node: Mapping, place: int, axis: int) -> None:
        """Says that an axis of an input holds what the operation returns, if that input is a tensor of the file."""
        self._direct(node, place, axis, "writes")

    def passes(self, node: Mapping, place: int, axis: int) -> None:
        """Says that an axis of an input holds what comes in and, unit by unit, what is returned."""
        self.reads(node, place, axis)
        self.writes(node, place, axis)

    def _direct(self, node: Mapping, place: int, axis: int, side: str) -> None:
        name = node["inputs"][place] if place < len(node["inputs"]) else ""
        if name in self.shapes and self._running is not None:
            getattr(self._running, side).append((name, axis % len(self.shapes[name])))

    def tell(self, name: str, value: int) -> None:
        """States a fact of the operation that is run, which other nodes of the graph tell."""
        if self._running is not None:
            self._running.told[name] = Fact(value, "graph")

    def operations(self) -> tuple[Operation, ...]:
        """Nodes that read tensors, in the order of the graph."""
        found = []
        for number, layer in enumerate(self._layers):
            node = layer.node
            facts = facts_of_node(node, self.shapes) | self._attention.facts(number) | layer.told
            type = str(TYPES.get(node["op"], node["op"].lower().replace("_", " ")))
            if type in TYPES.values() and type != "embedding":
                fused = facts.get("activation")
                facts |= following(layer.output, fused, self._readers, self.shapes, self.constants)
            facts |= self._fed(layer) if type in LAYERS and not layer.inputs else {}
            name = node["name"] or node["outputs"][0]
            reads, writes = tuple(dict.fromkeys(layer.reads)), tuple(dict.fromkeys(layer.writes))
            found.append(Operation(name, type, layer.tensors, reads, writes, layer.inputs, "graph", facts))
        return tuple(found)

    def _fed(self, layer: _Layer) -> dict[str, Fact]:
        """What is known of the images that a layer reads which is the first: their shape, and what is done to them."""
        inputs = [value for value in self.graph["inputs"] if value and value["name"] not in self.shapes]
        if len(inputs) != 1:
            return {}
        name, shape = inputs[0]["name"], inputs[0]["shape"] or []
        before = following(name, Fact("none", "graph"), self._readers, self.shapes, self.constants)
        changed = {key: fact for key, fact in before.items() if key in ("followed_by", "pooling", "pooled_activation")}
        facts = {"preceded_by": next(iter(changed.values()))} if changed else {}
        image = [*shape[1:]] if layer.node["op"].isupper() else [*shape[2:], *shape[1:2]]
        told = len(image) == 3 and all(isinstance(n, int) for n in image)
        if told and (TYPES.get(layer.node["op"]) == "conv" or image[-1] == 1):
            facts["input"] = Fact(tuple(image), "graph")
        return facts

    def scales(self) -> dict[int, str]:
        """Operation -> scale of the units that it writes, where one operation alone reads them."""
        found = {}
        for i, layer in enumerate(self._layers):
            fused = facts_of_node(layer.node, self.shapes).get("activation")
            scale = self._readers.scale(layer.output, fused) if TYPES.get(layer.node["op"]) in {*LAYERS, NORM} else None
            if scale is not None:
                found[i] = scale
        return found

    def _fix(self, name: str) -> None:
        for axis in self.values.get(name) or ():
            fix(axis or ())
        if name in self.flat:
            fix(self.flat[name][0])

    def of(self, node: Mapping, place: int) -> Axes:
        """Axes of an input."""
        axes = self.values[node["inputs"][place]]
        if axes is None and place == 0 and node["op"] in RANK_OF_WEIGHT:
            # Nothing is known of it but how many axes it has.
            return [None] * node["attributes"].get("rank", len(self.shapes[node["inputs"][1]]))
        if axes is None:
            raise ValueError("unknown axes")
        return axes

    def tie(self, a: Axis, b: Axis) -> Axis:
        """Ties two axes; one with None fixes the other."""
        if a is None or b is None or size_of(a) != size_of(b):
            fix(a or ())
            fix(b or ())
            return None
        for own, other in ((a, b), (b, a)):
            place = self.untied.pop(id(own[0]), None) if len(own) == 1 else None
            if place is not None and len(other) > 1:  # an axis that reads several values one after the other
                name, axis = place
                self.axes[name][axis] = other
                return other
        tie_values(a, b)
        return a

    def constant(self, node: Mapping, place: int, attribute: str) -> list[int] | None:
        """A list of integers that old operators hold as an attribute and new ones read."""
        value = node["attributes"].get(attribute)
        if value is None and len(node["inputs"]) > place:
            value = self.constants.get(node["inputs"][place])
        if isinstance(value, int):
            return [value]
        return [int(n) for n in value] if isinstance(value, list | tuple) else None

    def unflatten(self, name: str, size: int) -> Axis:
        """The axis of a flattened value, once its length is known."""
        value, slowest = self.flat[name]
        times, rest = divmod(size, size_of(value))
        if times == 1 and rest == 0:
            return value
        if rest or len(value) != 1:
            fix(value)
            return None
        return (view(value[0], inner=times) if slowest else view(value[0], outer=times),)
