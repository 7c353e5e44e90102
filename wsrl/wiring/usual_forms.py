"""The order and the inputs of operations in networks that are built as usual.

Names tell roughly in which order modules run, and `Trace` counts as inputs of an operation all whose outputs may come
in. Where the operations of a network together make up one of these forms, each sum and each successor is known:

    chain        convolutions, each perhaps with a batch norm, then dense layers
    residual     convolutions, blocks of two or more convolutions with a shortcut, dense layers
    transformer  a convolution, positions, pre-norm blocks of attention and two dense layers, a norm, dense layers
    recurrent    cells, then dense layers
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, zip_longest
from math import prod

from wsrl.wiring.tree import Shape, natural
from wsrl.wiring.wiring import Fact, Operation

PLAIN = ("conv", "linear", "batch norm", "norm", "attention", "recurrent", "parameter")
CONVOLUTIONAL = ("conv", "batch norm")
POSITIONS = re.compile(r"pos(ition)?_embed(ding)?s?")
NUMBERED = re.compile(r"\d+$")
SHORTCUT = re.compile(r"downsample|shortcut|skip|proj", re.IGNORECASE)
NONE = {"activation": Fact("none", "names")}
ANY_SUM = {**NONE, "sum_activation": Fact(None, "assumed")}


def in_usual_form(operations: Sequence[Operation], shapes: Mapping[str, Shape]) -> tuple[Operation, ...]:
    """Returns the operations in the order and with the inputs of the form that they make up; as they are if of none.

    Args:
      operations: of a network whose file holds no graph.
      shapes: of all tensors.
    """
    if all(operation.type in PLAIN for operation in operations):
        for form in (_Recurrent, _Transformer, _Residual, _Chain):
            try:
                built = form(operations, shapes).build()
                _check(built, shapes)
            except (ValueError, IndexError, KeyError):  # not of this form
                continue
            if _tensors(built) == _tensors(operations):
                return built
    return tuple(operations)


def path_of(operation: Operation) -> tuple[str, ...]:
    """The names of the modules that an operation lies in, and its own."""
    return tuple(re.split(r"[./]", operation.name))


def natural_key(operation: Operation) -> tuple:
    """Sorts operations naturally by the parts of their names, `Conv_2` before `Conv_10`."""
    return tuple(natural(part) for part in path_of(operation))


def widths(operation: Operation, shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Units that a layer reads and that it returns; of a norm both are its units.

    Raises:
      ValueError: its axes do not tell.
    """
    tensor = operation.tensors.get("weight") or operation.tensors.get("gain") or operation.tensors.get("mean")
    if tensor is None:
        raise ValueError(f"{operation.name} has no weights")
    sides = [operation.axes_of(tensor, side) for side in (operation.reads, operation.writes)]
    if not all(sides):
        raise ValueError(f"nothing tells which axis of {tensor} is which")
    fan_in, units = (prod(shapes[tensor][axis] for axis in side) for side in sides)
    return fan_in, units


def _tensors(operations: Sequence[Operation]) -> set[str]:
    return {tensor for operation in operations for tensor in operation.tensors.values()}


def _check(operations: Sequence[Operation], shapes: Mapping[str, Shape]) -> None:
    """Raises ValueError where an operation cannot read the sum of its inputs."""
    made: list[int | None] = []  # units that operations return, None where their tensors show it to others only
    for operation in operations:
        given = {made[i] for i in operation.inputs}
        part = operation.facts["part"].value if operation.type == "attention" else None
        if operation.type in ("parameter", "recurrent"):
            made.append(next(iter(given)) if operation.type == "parameter" and given else None)
            continue
        wanted, units = widths(operation, shapes)
        made.append(units if part in (None, "o") else None)
        flattened = operation.type == "linear" and all(operations[i].type in CONVOLUTIONAL for i in operation.inputs)
        for size in given - {None}:
            if size != wanted and not (flattened and len(given) == 1 and size and wanted % size == 0):
                raise ValueError(f"{operation.name} reads {wanted} units of {size}")


class _Form:
    """Operations that are put in order.

    Attributes:
      built: those in place.
      stream: places of those whose sum comes next.
    """

    def __init__(self, operations: Sequence[Operation], shapes: Mapping[str, Shape]):
        self.shapes = shapes
        self.given = operations
        self.all = sorted(operations, key=natural_key)
        self.built: list[Operation] = []
        self.stream: tuple[int, ...] = ()

    def build(self) -> tuple[Operation, ...]:
        """Returns the operations in order; ValueError where they are not of the form."""
        raise NotImplementedError

    def of(self, *types: str, among: Sequence[Operation] | None = None) -> list[Operation]:
        """Operations of some types, in natural order."""
        return [operation for operation in (self.all if among is None else among) if operation.type in types]

    def put(self, operation: Operation, inputs: tuple[int, ...], facts: Mapping[str, Fact] | None = None) -> int:
        """Puts an operation behind the others; returns its place. Norms could stand elsewhere without a trace."""
        facts = {**operation.facts, **(facts or {})}
        source = operation.source if operation.type == "norm" else "names"
        if operation.type == "conv" and not inputs and "groups" in facts:
            operation = _as_first(operation, self.shapes)
            del facts["groups"]
        self.built.append(replace(operation, inputs=inputs, source=source, facts=facts))
        return len(self.built) - 1

    def put_layer(
        self,
        layer: Operation,
        norms: Mapping[str, Operation],
        inputs: tuple[int, ...],
        facts: Mapping[str, Fact] | None = None,
    ) -> int:
        """Puts a layer and the norm that follows it, which has the facts; returns the place of the last of them."""
        norm = norms.get(layer.name)
        place = self.put(layer, inputs, None if norm else facts)
        return place if norm is None else self.put(norm, (place,), facts)

    def put_scalars(self) -> None:
        """Puts bare parameters of one number, which tell of no unit, behind the rest."""
        for operation in self.of("parameter"):
            if all(prod(self.shapes[tensor]) == 1 for tensor in operation.tensors.values()):
                self.put(operation, ())

    def put_heads(self, heads: list[Operation], norms: Mapping[str, Operation]) -> None:
        """Puts dense layers, each of which reads what the one before returns."""
        if not heads:
            raise ValueError("no dense layer at the end")
        for head in self.in_order(heads):
            self.stream = (self.put_layer(head, norms, self.stream),)
        self.put_scalars()

    def attached(self, layers: Sequence[Operation], norms: Sequence[Operation]) -> dict[str, Operation]:
        """Returns name of a convolution or dense layer -> the batch norm that follows it.

        In a numbered list (`features.0`, `features.1`) a norm belongs to the weights before it; otherwise (`Conv_0`,
        `BatchNorm_0`; `conv1`, `bn1`) the n-th norm belongs to the n-th weights.
        """
        pairs: dict[str, Operation] = {}
        for i, norm in enumerate(norms):
            path = path_of(norm)
            before = [
                layer
                for layer in layers
                if path[-1].isdigit() and path_of(layer)[:-1] == path[:-1] and natural_key(layer) < natural_key(norm)
            ]
            owner = before[-1] if before else layers[i]
            if widths(owner, self.shapes)[1] != widths(norm, self.shapes)[1] or owner.name in pairs:
                raise ValueError(f"batch norm {norm.name} fits no layer")
            pairs[owner.name] = norm
        return pairs

    def in_order(self, layers: list[Operation]) -> list[Operation]:
        """Dense layers so that each reads what the one before returns; as they are where no such order shows.

        Names do not always sort as layers run: `head` comes before `hidden`.
        """
        sizes = {layer.name: widths(layer, self.shapes) for layer in layers}
        if all(sizes[a.name][1] == sizes[b.name][0] for a, b in pairwise(layers)):
            return layers
        made = {units for _, units in sizes.values()}
        rest = sorted(layers, key=lambda m: sizes[m.name][0] in made)  # one that reads what none returns is the first
        ordered = [rest.pop(0)]
        while fitting := [m for m in rest if sizes[m.name][0] == sizes[ordered[-1].name][1]]:
            following = min(
                fitting, key=lambda m: not any(sizes[o.name][0] == sizes[m.name][1] for o in rest if o is not m)
            )
            rest.remove(following)
            ordered.append(following)
        return layers if rest else ordered


def _as_first(operation: Operation, shapes: Mapping[str, Shape]) -> Operation:
    """A convolution of gray images that was taken for one of each channel: a few units look like colors."""
    tensor = operation.tensors["weight"]
    (written,) = operation.axes_of(tensor, operation.writes)
    last = len(shapes[tensor]) - 1
    return replace(operation, reads=((tensor, last - 1 if written == last else 1),))


class _Chain(_Form):
    def build(self) -> tuple[Operation, ...]:
        """See the module's docstring."""
        convs, denses = self.of("conv"), self.in_order(self.of("linear"))
        if self.of("norm", "attention", "recurrent"):
            raise ValueError("more than convolutions and dense layers")
        norms = self.attached(convs + denses, self.of("batch norm"))
        for conv, following in zip_longest(convs, convs[1:]):
            between = _between(norms.get(conv.name, conv), following) if following else None
            self.stream = (self.put_layer(conv, norms, self.stream, between),)
        self.put_heads(denses, norms)
        return tuple(self.built)


def _between(last: Operation, following: Operation) -> dict[str, Fact]:
    """How many modules without tensors lie between two of a numbered list, such as activations and pooling."""
    one, other = path_of(last), path_of(following)
    if not (one[-1].isdigit() and other[-1].isdigit() and one[:-1] == other[:-1]):
        return {}
    return {"weightless": Fact(int(other[-1]) - int(one[-1]) - 1, "names")}


class _Residual(_Form):
    def build(self) -> tuple[Operation, ...]:
        """See the module's docstring."""
        blocks = self._blocks()
        inside = {operation.name for block in blocks.values() for operation in block}
        outside = [operation for operation in self.all if operation.name not in inside]
        stem, norms = self.of("conv", among=outside), self.of("batch norm", among=outside)
        if not blocks or not stem:
            raise ValueError("no blocks behind a convolution")
        stem_norms = self.attached(stem, norms)
        for conv in stem:
            self.stream = (self.put_layer(conv, stem_norms, self.stream),)
        for block in blocks.values():
            self._put_block(block)
        self.put_heads(self.of("linear", among=outside), {})
        return tuple(self.built)

    def _blocks(self) -> dict[tuple[str, ...], list[Operation]]:
        """Path of a block (`layer1.0`, `ResidualBlock_2`) -> its convolutions and norms."""
        blocks: dict[tuple[str, ...], list[Operation]] = {}
        for operation in self.of("conv", "batch norm"):
            parent = path_of(operation)[:-1]
            if parent and SHORTCUT.search(parent[-1]):
                parent = parent[:-1]
            if parent and NUMBERED.search(parent[-1]):
                blocks.setdefault(parent, []).append(operation)
        return {path: block for path, block in blocks.items() if len(self.of("conv", among=block)) > 1}

    def _put_block(self, block: list[Operation]) -> None:
        convs = self.of("conv", among=block)
        norms = self.attached(convs, self.of("batch norm", among=block))
        shortcuts = [conv for conv in convs if self._is_shortcut(conv, convs)]
        path = [conv for conv in convs if conv not in shortcuts]
        skip = inner = self.stream
        for conv in shortcuts:
            skip = (self.put_layer(conv, norms, skip, NONE),)
        for conv in path:
            inner = (self.put_layer(conv, norms, inner, ANY_SUM if conv is path[-1] else None),)
        self.stream = (*skip, *inner)

    def _is_shortcut(self, conv: Operation, convs: list[Operation]) -> bool:
        """A 1 x 1 convolution that is named as a shortcut, or, in Flax's automatic names, comes last."""
        tensor = conv.tensors["weight"]
        if conv.facts["kernel"].value != (1, 1):
            return False
        automatic = tensor.endswith("kernel") and conv is convs[-1] and len(convs) > 2
        return automatic or any(SHORTCUT.search(part) for part in path_of(conv))


class _Transformer(_Form):
    def build(self) -> tuple[Operation, ...]:
        """See the module's docstring."""
        blocks = list(dict.fromkeys(path_of(operation)[:-2] for operation in self.of("attention")))
        outside = [o for o in self.all if not any(path_of(o)[: len(path)] == path for path in blocks)]
        patches, norms = self.of("conv", among=outside), self.of("norm", among=outside)
        positions = [o for o in self.of("parameter", among=outside) if POSITIONS.fullmatch(path_of(o)[-1])]
        if not blocks or len(patches) != 1 or len(norms) != 1 or len(positions) > 1:
            raise ValueError("no blocks between one convolution and one norm")
        self.stream = (self.put(patches[0], (), NONE),)
        for position in positions:
            self.stream = (self.put(position, self.stream),)
        for path in blocks:
            self._put_block([o for o in self.all if path_of(o)[: len(path)] == path])
        self.stream = (self.put(norms[0], self.stream),)
        self.put_heads(self.of("linear", among=outside), {})
        return tuple(self.built)

    def _put_block(self, block: list[Operation]) -> None:
        first, second = self.of("norm", among=block)
        parts = {str(o.facts["part"].value): _as_projection(o, self.shapes) for o in self.of("attention", among=block)}
        *projections, out = [parts[name] for name in ("qkv", "q", "k", "v", "o") if name in parts]
        hidden, back = self.of("linear", among=block)
        if widths(hidden, self.shapes)[0] != widths(out, self.shapes)[1]:
            hidden, back = back, hidden  # Flax numbers modules as they are made, which need not be as they are applied
        normed = self.put(first, self.stream)
        read = tuple(self.put(projection, (normed,)) for projection in projections)
        self.stream = (*self.stream, self.put(out, read))
        normed = self.put(second, self.stream)
        self.stream = (*self.stream, self.put(back, (self.put(hidden, (normed,)),), NONE))


def _as_projection(operation: Operation, shapes: Mapping[str, Shape]) -> Operation:
    """A projection with the axes that it reads and writes, also where heads and their entries have one each (Flax)."""
    weight, bias = operation.tensors["weight"], operation.tensors.get("bias")
    if len(shapes[weight]) != 3:
        return operation
    back = operation.facts["part"].value == "o"
    reads, writes = ((0, 1), (2,)) if back else ((0,), (1, 2))
    vector = tuple((bias, axis) for axis in range(len(shapes[bias]))) if bias else ()
    sides = [tuple((weight, axis) for axis in side) for side in (reads, writes)]
    return replace(operation, reads=sides[0], writes=(*sides[1], *vector))


class _Recurrent(_Form):
    def build(self) -> tuple[Operation, ...]:
        """See the module's docstring; matrices `i` of inputs and `h` of states (Flax) become one operation."""
        by_path = {path_of(operation): operation for operation in self.of("linear")}
        pairs = {p[:-1]: (o, by_path[*p[:-1], "h"]) for p, o in by_path.items() if p[-1] == "i"}
        cells = [*self.of("recurrent"), *(_as_cell(".".join(path), *pair) for path, pair in pairs.items())]
        if not cells:
            raise ValueError("no cells")
        for cell in sorted(cells, key=natural_key):
            self.stream = (self.put(cell, self.stream),)
        merged = {operation.name for pair in pairs.values() for operation in pair}
        self.put_heads([operation for operation in self.of("linear") if operation.name not in merged], {})
        return tuple(self.built)


def _as_cell(name: str, inputs: Operation, states: Operation) -> Operation:
    tensors = {f"{role}_ih": tensor for role, tensor in inputs.tensors.items()}
    tensors |= {f"{role}_hh": tensor for role, tensor in states.tensors.items()}
    reads, writes = inputs.reads + states.reads, inputs.writes + states.writes
    return Operation(name, "recurrent", tensors, reads, writes)
