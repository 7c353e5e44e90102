"""What rules say while modules run: what lies along axes, what is read and written, and in which order."""

from collections.abc import Iterable, Mapping

from wsrl.wiring.dims import Value, fix, size_of, tie_values
from wsrl.wiring.places import place_norms
from wsrl.wiring.trace import Connector, Step, Trace
from wsrl.wiring.tree import Node, Shape
from wsrl.wiring.wiring import Fact, Operation, TensorAxis


class Record:
    """The record of a run through a tree of modules.

    Attributes:
      axes: tensor -> for each axis the value that lies along it, or None.
      shapes: of all tensors.
      trace: which modules have run.
    """

    def __init__(self, root: Node):
        self.root = root
        self.axes: dict[str, list[Value | None]] = {}
        self.shapes: dict[str, Shape] = {}
        for leaf in root.leaves():
            for tensor, shape in leaf.tensors.values():
                self.axes[tensor] = [None] * len(shape)
                self.shapes[tensor] = shape
        self.trace = Trace(root)
        self._reads: set[TensorAxis] = set()
        self._writes: set[TensorAxis] = set()

    def put(self, tensor: str, axis: int, value: Value) -> None:
        """Says what an axis holds."""
        if size_of(value) != self.shapes[tensor][axis]:
            raise ValueError(f"{tensor}: {size_of(value)} units on an axis of {self.shapes[tensor][axis]}")
        before = self.axes[tensor][axis]
        if before is None:
            self.axes[tensor][axis] = value
        else:
            tie_values(before, value)

    def reads(self, tensor: str, axis: int, value: Value) -> None:
        """Says that an axis holds what comes into a module."""
        self.put(tensor, axis, value)
        self._reads.add((tensor, axis))

    def writes(self, tensor: str, axis: int, value: Value) -> None:
        """Says that an axis holds what a module returns."""
        self.put(tensor, axis, value)
        self._writes.add((tensor, axis))

    def passes(self, tensor: str, axis: int, value: Value) -> None:
        """Says that an axis holds what comes into a module and, unit by unit, what it returns."""
        self.reads(tensor, axis, value)
        self._writes.add((tensor, axis))

    def writes_vectors(self, node: Node, value: Value) -> None:
        """Says that the tensors beside a module's weight hold one number for each unit that it returns."""
        for tensor, axis in self._vectors(node, value, skip=("weight",)):
            self.writes(tensor, axis, value)

    def passes_vectors(self, node: Node, value: Value) -> None:
        """Says that the tensors of a module hold one number for each unit that it reads and returns."""
        for tensor, axis in self._vectors(node, value):
            self.passes(tensor, axis, value)

    def _vectors(self, node: Node, value: Value, skip: Iterable[str] = ()) -> list[TensorAxis]:
        """The axes of vectors that have the length of a value; a tensor that does not fit fixes the units."""
        found = []
        for name, (tensor, shape) in node.tensors.items():
            hits = [i for i, n in enumerate(shape) if n == size_of(value) and n > 1]
            others = [n for n in shape if n > 1]
            if name in skip or not others:
                continue
            if len(hits) == 1 and len(others) == 1:
                found.append((tensor, hits[0]))
            else:
                fix(value)
        return found

    def note(
        self,
        node: Node,
        type: str,
        taken: Value | None = None,
        made: Value | None = None,
        after: tuple[Step, ...] | None = None,
        facts: Mapping[str, Fact] | None = None,
    ) -> Step:
        """Records an operation; see Step. What it takes and makes is read off its axes unless it is given."""
        passes = type in ("norm", "batch norm", "parameter")
        step = Step(node, type, dict(facts or {}), taken, made, after, passes)
        self.trace.add(step)
        return step

    def operations(self) -> tuple[Operation, ...]:
        """All operations in the order in which data flows, once everything has run."""
        connector = Connector(self.axes, self._reads, self._writes)
        place_norms(self.trace.root, connector.groups_of)
        for leaf in self.trace.add_others(self.root):
            self._direct_as_stored(leaf)
        connector.run(self.trace.root)
        return tuple(connector.operations)

    def _direct_as_stored(self, leaf: Node) -> None:
        """Says which axes a module that has not run reads and writes, by the form in which weights are stored."""
        if leaf.kind in ("linear", "conv", "embedding"):
            name, shape = leaf.tensors["weight"]
            last = leaf.transposed or leaf.kind == "embedding"
            read, written = (len(shape) - 2, len(shape) - 1) if last else (1, 0)
            self._reads.add((name, read))
            self._writes.add((name, written))
            bias = leaf.tensors.get("bias")
            if bias is not None and len(bias[1]) == 1:
                self._writes.add((bias[0], 0))
        elif leaf.kind == "norm":
            vectors = {(name, 0) for name, shape in leaf.tensors.values() if len(shape) == 1}
            self._reads |= vectors
            self._writes |= vectors
