"""The tree of a checkpoint's modules, as the names of its tensors spell it out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

Shape = tuple[int, ...]

FIELDS = {
    "weight": "weight", "kernel": "weight", "embedding": "weight", "gamma": "weight", "scale": "weight", "w": "weight",
    "depthwise_kernel": "weight", "embeddings": "weight", "weight_v": "weight",
    "bias": "bias", "beta": "bias", "b": "bias",
    "mean": "mean", "running_mean": "mean", "moving_mean": "mean", "var": "variance", "running_var": "variance",
    "moving_variance": "variance", "num_batches_tracked": "count",
}  # fmt: skip
COLLECTIONS = ("params", "batch_stats")
EMBEDDING = re.compile(
    r"embed|^wte$|^wpe$|^shared$|^tok|lookup|token_type|word_emb|pos_emb|position_enc|^emb$|^w$|vocab", re.IGNORECASE
)

TABLES = re.compile(r"emb(ed(ding)?)?s?(_l(ist)?|_tables?)?", re.IGNORECASE)  # lists of embeddings


@dataclass(eq=False)
class Node:
    """A module: its own tensors and its children. What follows from them is kept once it has been asked for.

    Attributes:
      path: names from the root down.
      tensors: field or bare name -> (tensor, shape).
      children: name -> node.
      transposed: the weight is [..., in, out] rather than [out, in, ...].
    """

    path: tuple[str, ...]
    tensors: dict[str, tuple[str, Shape]] = field(default_factory=dict)
    children: dict[str, "Node"] = field(default_factory=dict)
    transposed: bool = False
    parent: "Node | None" = field(default=None, repr=False)

    @cached_property
    def name(self) -> str:
        """Last name of the path."""
        return self.path[-1] if self.path else ""

    @cached_property
    def dotted(self) -> str:
        """The path as one word."""
        return ".".join(self.path)

    @property
    def weight(self) -> Shape:
        """Shape of the weight."""
        return self.tensors["weight"][1]

    @property
    def own_shape(self) -> Shape:
        """Shape of the weight, or of a bare array; () where the module has neither."""
        return next((shape for role, (_, shape) in self.tensors.items() if role in ("weight", "value")), ())

    def shape(self, name: str) -> Shape | None:
        """Shape of a field, None where the module has none."""
        return self.tensors[name][1] if name in self.tensors else None

    @cached_property
    def kind(self) -> str:
        """`norm`, `linear`, `conv`, `embedding`, `recurrent`, `parameter` (bare) or `container`."""
        if any(re.match(r"weight_(ih|hh)|recurrent_kernel", name) for name in self.tensors):
            return "recurrent" if self._is_recurrent() else "parameter"
        if "in_proj_weight" in self.tensors:
            return "container"
        if "mean" in self.tensors and "variance" in self.tensors:
            return "norm"
        if "weight" not in self.tensors:
            return "container" if self.children or not self.tensors else "parameter"
        vector = sum(n != 1 for n in self.weight) == 1
        if len(self.weight) <= 1 or (vector and len(self.weight) > 2 and self._scales()):
            return "norm"
        if len(self.weight) == 2:
            listed = self.name.isdigit() and self.parent is not None and TABLES.fullmatch(self.parent.name)
            looked_up = (
                listed or EMBEDDING.search(self.name) or self.tensors["weight"][0].endswith(("embedding", "embeddings"))
            )
            projects = "bias" in self.tensors or "proj" in self.name  # what embeddings return
            return "embedding" if looked_up and not projects else "linear"
        return "conv"

    def _is_recurrent(self) -> bool:
        """Whether weights of inputs and of states make whole cells, in PyTorch's or in Keras' convention."""
        if "recurrent_kernel" in self.tensors:
            kernel, states = self.shape("weight"), self.shape("recurrent_kernel")
            return _is_cell(kernel and kernel[::-1], states and states[::-1], None)
        suffixes = {name[9:] for name in self.tensors if re.match(r"weight_(ih|hh)", name)}
        for suffix in suffixes:
            inputs, states, projection = (self.shape(f"weight_{side}{suffix}") for side in ("ih", "hh", "hr"))
            biases = (self.shape(f"bias_{side}{suffix}") for side in ("ih", "hh"))
            if not _is_cell(inputs, states, projection) or any(b not in (None, (states or ())[:1]) for b in biases):
                return False
        return "" in suffixes or "_l0" in suffixes

    def _scales(self) -> bool:
        """Whether a weight with one long axis is a gain, [channels, 1, 1] or with a bias of its shape."""
        column = len(self.weight) == 3 and self.weight[0] != 1 and self.shape("bias") in (None, (self.weight[0],))
        return column or self.shape("bias") == self.weight

    @property
    def units(self) -> int:
        """Units that a dense layer or convolution returns."""
        return self.weight[-1] if self.transposed else self.weight[0]

    @property
    def fan_in(self) -> int:
        """Units or channels that a dense layer or convolution reads; of a grouped one, those of a group."""
        return self.weight[-2] if self.transposed else self.weight[1]

    @cached_property
    def _leaves(self) -> tuple["Node", ...]:
        own = (self,) if self.tensors else ()
        return own + tuple(leaf for child in sorted_children(self) for leaf in child.leaves())

    @cached_property
    def _sorted(self) -> tuple["Node", ...]:
        return tuple(self.children[name] for name in sorted(self.children, key=natural))

    def leaves(self) -> tuple["Node", ...]:
        """All modules with tensors below and including this one, in natural order."""
        return self._leaves

    def forget(self) -> None:
        """Drops what is kept; to be called where tensors or children of this module or one below it have changed."""
        for name in ("kind", "_leaves", "_sorted"):
            self.__dict__.pop(name, None)


def _is_cell(inputs: Shape | None, states: Shape | None, projection: Shape | None) -> bool:
    """Whether weights [gates x hidden, in], [gates x hidden, state] and, if any, [state, hidden] fit each other."""
    if inputs is None or states is None or len(inputs) != 2 or len(states) != 2 or inputs[0] != states[0]:
        return False
    if projection is None:
        return states[0] % states[1] == 0
    return len(projection) == 2 and projection[0] == states[1] and states[0] % projection[1] == 0


@lru_cache(maxsize=2**16)
def natural(name: str) -> tuple:
    """Sorts `conv2` before `conv10`."""
    return tuple((1, int(s), "") if s.isdigit() else (0, 0, s) for s in re.split(r"(\d+)", name) if s)


def sorted_children(node: Node) -> list[Node]:
    """Children in natural order of their names."""
    return list(node._sorted)


def parse_tree(shapes: Mapping[str, Shape], place: Callable[[str], str] = str) -> Node:
    """Builds the tree of modules from the names of tensors, in PyTorch's, Flax's or Keras' convention.

    A tensor whose last name is no known field of a module becomes a module of its own, of kind `parameter`.

    Args:
      shapes: of the tensors.
      place: the path of a tensor, by its name.
    """
    root = Node(())
    for name, shape in shapes.items():
        parts = [p for p in re.split(r"[./]", place(name)) if p] or [name]
        if parts[-3:-1] == ["parametrizations", "weight"]:  # weight norm: gain and direction
            parts = [*parts[:-3], "weight_g" if parts[-1] == "original0" else "weight_v"]
        if parts[0] in COLLECTIONS and len(parts) > 2:
            parts = parts[1:]
        last = parts[-1].removesuffix(":0")
        recurrent = re.fullmatch(
            r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?|recurrent_kernel|in_proj_(weight|bias)", last
        )
        known = (
            last in FIELDS and len(parts) > 1 and not (last in ("w", "b", "gamma", "beta", "scale") and len(shape) != 1)
        )
        node = root
        for i, part in enumerate(parts[:-1] if known or recurrent else parts):
            node = node.children.setdefault(part, Node((*node.path, *parts[len(node.path) : i + 1])))
        if recurrent:
            node.tensors[last] = (name, shape)
        elif known:
            node.tensors[FIELDS[last]] = (name, shape)
            if last in ("kernel", "depthwise_kernel"):
                node.transposed = True
        else:
            node.tensors["value"] = (name, shape)
    _own_vectors(root)
    _set_parents(root)
    _transposed_linears(root)
    return root


def _set_parents(node: Node) -> None:
    node.forget()
    for child in node.children.values():
        child.parent = node
        _set_parents(child)


def _own_vectors(node: Node) -> None:
    """Tensors beside known fields belong to the module; those beside other modules are modules of their own."""
    for child in list(node.children.values()):
        _own_vectors(child)
    if not node.tensors or not node.children or "in_proj_weight" in node.tensors:
        return
    if "weight" in node.tensors and all(c.kind == "parameter" for c in node.children.values()):
        node.tensors |= {
            f".{c.name}" if role == "value" else f".{c.name}.{role}": tensor
            for c in node.children.values()
            for role, tensor in c.tensors.items()
        }
        node.children.clear()
        return
    for name in list(node.tensors):
        label = "." + name
        node.children[label] = Node((*node.path, label), {"value": node.tensors.pop(name)})


def _transposed_linears(root: Node) -> None:
    """Finds dense layers that store [in, out] without saying so, by the length of their biases (GPT-2's Conv1D)."""
    linears = [n for n in root.leaves() if n.kind == "linear" and not n.transposed]
    votes: dict[str, set[bool]] = {}
    for node in linears:
        bias = node.shape("bias")
        if bias and node.weight[0] != node.weight[1]:
            votes.setdefault(node.name, set()).add(bias[0] == node.weight[1])
    for node in linears:
        node.transposed = votes.get(node.name) == {True}
