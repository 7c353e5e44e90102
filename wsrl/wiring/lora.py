"""Low-rank updates (Hu et al., LoRA, 2021): `lora_A` [rank, in] and `lora_B` [out, rank], beside a base layer or alone.

Only their product acts, so the entries of the rank may be permuted, and mixed by any invertible matrix. What they read
and return is what their base layer reads and returns.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from wsrl.wiring.dims import Dim, Value, fix, size_of
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Shape
from wsrl.wiring.wiring import Operation, Product, Slice

DOWN = re.compile(r"lora_A|lora_down|lora\.down")
UP = {"lora_A": "lora_B", "lora_down": "lora_up", "lora.down": "lora.up"}
ADAPTER = re.compile(r"[._]lora[._]")
WRAPPED = re.compile(r"\.base_layer(?=\.)|^base_model\.model\.")


class Adapters:
    """The low-rank pairs of a checkpoint.

    Args:
      shapes: of all tensors.

    Attributes:
      base: shapes of the other tensors, with the names that they had before.
      pairs: names of the two matrices of each pair.
    """

    def __init__(self, shapes: Mapping[str, Shape]):
        self.shapes = shapes
        self.pairs: list[tuple[str, str]] = []
        for name in shapes:
            match = DOWN.search(name)
            partner = name[: match.start()] + UP[match[0]] + name[match.end() :] if match else None
            if partner is not None and partner in shapes:
                self.pairs.append((name, partner))
        adapters = {name for name in shapes if ADAPTER.search(name)} if self.pairs else set()
        self._names = {WRAPPED.sub("", n) if self.pairs else n: n for n in shapes if n not in adapters}
        self._others = adapters - {name for pair in self.pairs for name in pair}
        self.base = {base: shapes[name] for base, name in self._names.items()}

    def attach(self, flow: Flow, products: Sequence[Product]) -> list[Product]:
        """Wires the pairs to their base layers, gives tensors their own names again and returns all products."""
        if not self.pairs:
            return list(products)
        adapted = [self._attach(flow, *pair) for pair in self.pairs]
        for name in self._others:  # magnitudes and the like
            _, outputs = self._base_of(flow, name)
            if outputs is not None and self.shapes[name] == (size_of(outputs),):
                flow.axes[name] = [outputs]
            else:
                self._fix_base(flow, name)
                flow.axes[name] = [None] * len(self.shapes[name])
        updated = {self._base_weight(down) for down, _ in self.pairs}
        kept = [p for p in products if not updated & {p.left.tensor, p.right.tensor}]
        for base, name in self._names.items():
            flow.axes[name] = flow.axes.pop(base)
        return [self._renamed(p) for p in kept] + [p for p in adapted if p is not None]

    def operations(self, operations: Sequence[Operation]) -> tuple[Operation, ...]:
        """Gives tensors of operations their own names again, and puts the pairs after their base layers."""
        if not self.pairs:
            return tuple(operations)
        matrices = [(d, u) for d, u in self.pairs if min(len(self.shapes[d]), len(self.shapes[u])) > 1]
        pairs = {self._base_weight(down) or down: (down, up) for down, up in matrices}
        found: list[Operation] = []
        ends: list[tuple[int, ...]] = []  # of each operation: its own new index, and that of what is added to it
        for operation in operations:
            inputs = tuple(new for old in operation.inputs for new in ends[old])
            ends.append((len(found),))
            found.append(self._with_own_names(replace(operation, inputs=inputs)))
            for tensor in operation.tensors.values():
                if tensor in pairs:
                    ends[-1] += (len(found) + 1,)
                    found += _pair(*pairs.pop(tensor), inputs, len(found))
        for down, up in pairs.values():
            found += _pair(down, up, (), len(found))
        return tuple(found)

    def _with_own_names(self, operation: Operation) -> Operation:
        names = {tensor: self._names.get(tensor, tensor) for tensor in operation.tensors.values()}
        return replace(
            operation,
            tensors={role: names[tensor] for role, tensor in operation.tensors.items()},
            reads=tuple((names[tensor], axis) for tensor, axis in operation.reads),
            writes=tuple((names[tensor], axis) for tensor, axis in operation.writes),
        )

    def _attach(self, flow: Flow, down: str, up: str) -> Product | None:
        a, b = self.shapes[down], self.shapes[up]
        inputs, outputs = self._base_of(flow, down)
        flow.axes[down], flow.axes[up] = [None] * len(a), [None] * len(b)
        # linear layers store [rank, in] and [out, rank], convolutions have kernels after that, of one tap in `up`
        if len(a) < 2 or len(b) < 2 or a[0] != b[1] or prod(b[2:]) != 1 or a[0] >= min(prod(a[1:]), b[0]):
            self._fix_base(flow, down)
            return None
        rank: Value = (Dim(a[0]),)
        known_in = inputs is not None and size_of(inputs) == a[1]
        known_out = outputs is not None and size_of(outputs) == b[0]
        if not known_in or not known_out:
            self._fix_base(flow, down)
        flow.axes[down][:2] = rank, inputs if known_in else None
        flow.axes[up][:2] = outputs if known_out else None, rank
        return Product(Slice(down, 0, 0, a[0]), Slice(up, 1, 0, a[0]), 1, a[0])

    def _base_weight(self, name: str) -> str | None:
        """The weight that an adapter's tensor is added to, as the flow names it."""
        path = WRAPPED.sub("", ADAPTER.split(name)[0])
        found = [base for base in (f"{path}.weight", f"{path}.kernel") if base in self.base]
        return found[0] if found else None

    def _base_of(self, flow: Flow, name: str) -> tuple[Value | None, Value | None]:
        """What the base layer reads and returns; None where there is none or it is not understood."""
        base = self._base_weight(name)
        axes = flow.axes.get(base) if base else None
        if axes is None or len(axes) < 2:
            return None, None
        stored = [node for node in flow.root.leaves() if node.tensors.get("weight", ("",))[0] == base]
        return (axes[-2], axes[-1]) if stored and stored[0].transposed else (axes[1], axes[0])

    def _fix_base(self, flow: Flow, name: str) -> None:
        """Fixes what lies along a base layer whose adapter is not understood."""
        base = self._base_weight(name)
        for value in flow.axes.get(base, ()) if base else ():
            fix(value or ())

    def _renamed(self, product: Product) -> Product:
        """A product with the tensors' own names."""
        own = {}
        for key in ("left", "right", "left_bias", "right_bias"):
            part = getattr(product, key)
            own[key] = part and replace(part, tensor=self._names[part.tensor])
        return replace(product, **own)


def _pair(down: str, up: str, inputs: tuple[int, ...], start: int) -> list[Operation]:
    """The two operations of a pair, the first of which gets the index `start`."""
    sides = ((down, inputs), (up, (start,)))
    return [
        Operation(tensor.removesuffix(".weight"), "low rank", {"weight": tensor}, ((tensor, 1),), ((tensor, 0),), own)
        for tensor, own in sides
    ]
