"""Compiles programs from the operations of a wiring: layers in the order in which they run.

Operations tell types, order, sums, heads and norms. Activations, strides, padding, pooling and the input's shape are
facts of them where the file tells (`wsrl.wiring.wiring.Operation`); else they are those of a `Choice`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import prod

from wsrl.program.choices import WINDOW, Choice, in_forward_order
from wsrl.program.geometry import Placement, pooled_placement, told_placement, windowed
from wsrl.program.layers import ACTIVATIONS, Layer, Link, View
from wsrl.program.views import biases, heads_of, norm_of, one_view, projection, weight_view
from wsrl.wiring.usual_forms import widths
from wsrl.wiring.wiring import Operation, Wiring

SAME_AS = {"none": "identity", "linear": "identity", "swish": "silu", "leakyrelu": "leaky_relu"}
OF_OUTPUTS = ("softmax", "log_softmax", "sigmoid")  # what they are applied to is what the network answers
CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
ON_MAPS = ("conv", "attention", "norm", "parameter")  # operations that act on maps


class Compiler:
    """Builds the layers of a wiring for one choice after the other."""

    def __init__(self, wiring: Wiring):
        self.wiring = wiring
        operations = wiring.operations
        self.convs = in_forward_order(wiring)
        self.positions = {o.inputs[0]: o for o in operations if o.type == "parameter" and len(o.inputs) == 1}
        self.read_by = {i for o in operations for i in o.inputs}
        on_maps = [i for i, o in enumerate(operations) if (o.type in ON_MAPS and o.inputs) or o.type == "conv"]
        on_maps += [i for o in operations if len(o.inputs) > 1 for i in o.inputs]
        self.last_on_maps = max(on_maps, default=-1)
        self._check_ends()
        self.weight: Callable[..., View] = cache(
            lambda i, flatten=None: weight_view(operations[i], wiring, flatten)
        )  # the same for many choices

    def _check_ends(self) -> None:
        """Raises ValueError where more than the last operation is read by none, or the last is no dense layer."""
        unread = [o for i, o in enumerate(self.wiring.operations) if i not in self.read_by and o.type != "parameter"]
        if not unread or unread[-1].type != "linear":
            raise ValueError("no dense layer at the end")
        if len(unread) > 1:
            raise ValueError(f"nothing reads {unread[0].name}")

    def layers(self, choice: Choice) -> tuple[Layer, ...]:
        """Returns the layers of a program.

        Raises:
          ValueError: the operations are not of kinds that can be run, or do not fit each other or the choice.
        """
        return _Run(self, choice).layers()


class _Run:
    """The layers of one choice.

    Attributes:
      at: operation -> the layer that returns its units.
      steps: of recurrent operations -> the layers of its steps.
      sums: operations that are summed -> the layer that returns the sum.
      alone: layers that are read by others before anything is added to them.
    """

    def __init__(self, compiler: Compiler, choice: Choice):
        self.compiler, self.wiring, self.choice = compiler, compiler.wiring, choice
        height, width, channels = choice.input_shape
        self.net = [Layer("input", "input", channels, (height, width))]
        self.at: dict[int, int] = {}
        self.steps: dict[int, list[int]] = {}
        self.sums: dict[tuple[int, ...], int] = {}
        self.alone: set[int] = set()

    def layers(self) -> tuple[Layer, ...]:
        """See Compiler.layers."""
        for i, operation in enumerate(self.wiring.operations):
            self.check_neighbors(i, operation)
            if operation.type not in RUN:
                raise ValueError(f"{operation.name}, of type {operation.type}, cannot be run")
            RUN[operation.type](self, i, operation)
        return tuple(self.net)

    def check_neighbors(self, i: int, operation: Operation) -> None:
        """Raises ValueError where something without tensors stands beside an operation that is not understood."""
        before, after = operation.facts.get("preceded_by"), operation.facts.get("followed_by")
        if before is not None:
            raise ValueError(f"{before.value} before {operation.name} cannot be run")
        if after is not None and i in self.compiler.read_by:  # behind the outputs it is of no matter
            raise ValueError(f"{after.value} after {operation.name} cannot be run")

    def activation(self, operation: Operation, name: str = "activation") -> str:
        """The activation that a fact tells; that of the choice where it does not say which one there is."""
        fact = operation.facts.get(name)
        if fact is None:
            return "identity"
        if fact.value is None or fact.source == "metadata":
            return self.choice.activation
        value = SAME_AS.get(str(fact.value), str(fact.value))
        if value in OF_OUTPUTS and self.wiring.operations.index(operation) not in self.compiler.read_by:
            return "identity"
        if value not in ACTIVATIONS:
            raise ValueError(f"the activation {value} of {operation.name} cannot be run")
        return value

    def source(self, inputs: tuple[int, ...]) -> int:
        """The layer that returns the sum of some operations; the last of them takes the others in."""
        if len(inputs) < 2:
            place = self.at[inputs[0]] if inputs else 0
            self.alone.add(place)
            return place
        if inputs not in self.sums:
            last, others = self.at[inputs[-1]], self.source(inputs[:-1])
            layer, operation = self.net[last], self.wiring.operations[inputs[-1]]
            if layer.op != "linear" or layer.activation != "identity" or last in self.alone or others >= last:
                raise ValueError(f"what is added to {layer.name} is not understood")
            activation = self.activation(operation, "sum_activation")
            self.net[last] = replace(layer, links=(*layer.links, Link(others)), activation=activation)
            self.sums[inputs] = last
        return self.sums[inputs]

    def add(self, i: int, layer: Layer) -> int:
        """Adds the layer of an operation."""
        self.net.append(layer)
        self.at[i] = len(self.net) - 1
        return self.at[i]

    def conv(self, i: int, operation: Operation) -> None:
        """A convolution, the positions that are added to it, and what is pooled after it."""
        source = self.source(operation.inputs)
        weight = self.compiler.weight(i)
        kernel = (weight.sizes["ky"], weight.sizes["kx"])
        before = self.net[source].grid
        place = told_placement(operation, kernel, before) or self.chosen_placement(operation, kernel, before)
        links = (Link(source, weight, kernel, place.stride, place.padding, place.origin),)
        if i in self.compiler.positions:
            links += (self.position_link(self.compiler.positions[i], place.grid),)
        own = biases(operation, self.wiring)
        activation = self.activation(operation)
        units = weight.sizes["out"]
        self.add(i, Layer(operation.name, "linear", units, place.grid, links, own, activation=activation))
        self.pool(i, operation)

    def chosen_placement(self, operation: Operation, kernel: tuple[int, int], grid: tuple[int, int]) -> Placement:
        """Where the windows of a convolution lie, by the choice: side by side if nothing else is said."""
        how = self.choice.downsampling
        if how is None:
            return windowed(grid, kernel, kernel[0], 0)
        stride = how.strides[self.compiler.convs.index(operation)]
        return windowed(grid, kernel, stride, kernel[0] // 2 if how.padded else 0)

    def pool(self, i: int, operation: Operation) -> None:
        """Adds the pooling that follows an operation, if it is the last of a convolution and its norm."""
        place = pooled_placement(operation, self.net[-1].grid)
        activation, pooling = "identity", "max"
        if place is not None:
            pooling = "mean" if operation.facts["pooling"].value == "average" else "max"
            activation = self.activation(operation, "pooled_activation")
        how = self.choice.downsampling
        if place is None and how is not None and self.ends_convolution(i):
            conv = operation if operation.type == "conv" else self.wiring.operations[operation.inputs[0]]
            if how.pooled[self.compiler.convs.index(conv)]:
                place, pooling = windowed(self.net[-1].grid, (WINDOW, WINDOW), WINDOW, 0), how.pooling
        if place is not None:
            link = Link(len(self.net) - 1, None, place.kernel, place.stride, place.padding, place.origin)
            name, units = f"{self.net[-1].name}.pool", self.net[-1].units
            self.add(i, Layer(name, "pool", units, place.grid, (link,), activation=activation, pooling=pooling))

    def ends_convolution(self, i: int) -> bool:
        """Whether a convolution has no batch norm behind it, or an operation is that norm."""
        readers = [o for o in self.wiring.operations if i in o.inputs]
        return not any(o.type == "batch norm" for o in readers)

    def batch_norm(self, i: int, operation: Operation) -> None:
        """A batch norm becomes part of the layer before it."""
        place = self.at[operation.inputs[0]] if len(operation.inputs) == 1 else 0
        layer = self.net[place]
        plain = layer.op == "linear" and layer.norm is None and layer.activation == "identity"
        if not plain or place in self.alone or place != len(self.net) - 1:
            raise ValueError(f"{operation.name} follows no layer")
        norm = norm_of(operation, self.wiring)
        self.net[place] = replace(layer, norm=norm, activation=self.activation(operation))
        self.at[i] = place
        self.pool(i, operation)

    def norm(self, i: int, operation: Operation) -> None:
        """A layer norm."""
        source = self.source(operation.inputs)
        of = self.net[source]
        norm = norm_of(operation, self.wiring)
        if operation.facts.get("activation", None) is not None or len(widths_of(operation, self.wiring)) != 1:
            raise ValueError(f"{operation.name} is no plain layer norm")
        self.add(i, Layer(operation.name, "norm", of.units, of.grid, (Link(source),), norm=norm))

    def linear(self, i: int, operation: Operation) -> None:
        """A dense layer: on each position of a map, on the mean over it, or on all of it flattened."""
        source = self.source(operation.inputs)
        of = self.net[source]
        fan_in, units = widths(operation, self.wiring.shapes)
        own, activation = biases(operation, self.wiring), self.activation(operation)
        if i <= self.compiler.last_on_maps:
            link = Link(source, self.compiler.weight(i))
            self.add(i, Layer(operation.name, "linear", units, of.grid, (link,), own, activation=activation))
            return
        if source and fan_in == of.units and (of.op != "linear" or source <= self.last_map()):
            self.net[source] = of = replace(of, pool=True)
        grid = (1, 1) if of.pool else of.grid
        if fan_in != of.units * prod(grid):
            raise ValueError(f"{operation.name} expects {fan_in} inputs, {of.name} gives {of.units} x {grid}")
        link = Link(source, self.compiler.weight(i, grid), grid)
        self.add(i, Layer(operation.name, "linear", units, (1, 1), (link,), own, activation=activation))

    def last_map(self) -> int:
        """The last layer that has maps."""
        return self.at.get(self.compiler.last_on_maps, 0)

    def attention(self, i: int, operation: Operation) -> None:
        """A projection of attention; that of the outputs brings the attention itself."""
        part = operation.facts["part"].value
        heads = heads_of(operation, self.wiring) or self.choice.heads or 1
        if part == "o":
            self.attend(i, operation, heads)
            return
        source = self.source(operation.inputs)
        for number, name in enumerate({"qkv": ("query", "key", "value")}.get(str(part), (f"{part}",))):
            weight, own = projection(operation, self.wiring, heads, number)
            units, label = heads * weight.sizes["dim"], f"{operation.name}.{name}" if part == "qkv" else operation.name
            links = (Link(source, weight),)
            self.add(i, Layer(label, "linear", units, self.net[source].grid, links, own, heads=heads))

    def attend(self, i: int, operation: Operation, heads: int) -> None:
        """Attention over the last three layers, and the projection of what it returns."""
        parts = [str(self.wiring.operations[j].facts["part"].value) for j in operation.inputs]
        last = len(self.net) - 1
        if parts not in (["qkv"], ["q", "k", "v"]) or self.at[operation.inputs[-1]] != last:
            raise ValueError(f"{operation.name} does not read queries, keys and values")
        of = self.net[last]
        name = operation.name.rpartition(".")[0]
        qkv = tuple(Link(last - 2 + k) for k in range(3))
        self.net.append(Layer(f"{name}.attention", "attention", of.units, of.grid, qkv, heads=heads))
        weight, own = projection(operation, self.wiring, heads)
        self.add(i, Layer(operation.name, "linear", weight.sizes["out"], of.grid, (Link(last + 1, weight),), own))

    def position_link(self, operation: Operation, grid: tuple[int, int]) -> Link:
        """Adds a layer of positions; returns the link from it that adds a position embedding."""
        (tensor,) = operation.tensors.values()
        *ones, _, units = self.wiring.shapes[tensor]
        if ones not in ([1], []):
            raise ValueError(f"{operation.name} is no position embedding")
        axes = (("one",), ("in",), ("out",)) if ones else (("in",), ("out",))
        view = View(tensor, axes, {"one": 1, "in": prod(grid), "out": units})
        self.net.append(Layer("position", "position", prod(grid), grid))
        return Link(len(self.net) - 1, view)

    def parameter(self, i: int, operation: Operation) -> None:
        """A position embedding, which is part of a layer already; a single number, which tells nothing of units."""
        if len(operation.inputs) == 1 and self.wiring.operations[operation.inputs[0]].type == "conv":
            self.at[i] = self.at[operation.inputs[0]]
        elif any(prod(self.wiring.shapes[tensor]) > 1 for tensor in operation.tensors.values()):
            raise ValueError(f"the parameter {operation.name} is not understood")

    def recurrent(self, i: int, operation: Operation) -> None:
        """Elman cells, unrolled into one layer a step; what reads them reads the last step."""
        below = self.steps[operation.inputs[0]] if operation.inputs else []
        suffixes = sorted(role.removeprefix("weight_ih") for role in operation.tensors if role.startswith("weight_ih"))
        known = {f"{role}{suffix}" for role in CELL for suffix in suffixes}
        if not suffixes or operation.tensors.keys() - known:
            raise ValueError(f"{operation.name} is no plain recurrent cell")
        for suffix in suffixes:
            below = self.cell(operation, suffix, below)
        self.steps[i], self.at[i] = below, below[-1]

    def cell(self, operation: Operation, suffix: str, below: list[int]) -> list[int]:
        """Adds the steps of a cell that reads rows of the input, or the steps of the cell below; returns them."""
        wiring, (height, width, channels) = self.wiring, self.choice.input_shape
        inputs = weight_view(operation, wiring, None if below else (1, width), f"weight_ih{suffix}")
        states = weight_view(operation, wiring, None, f"weight_hh{suffix}")
        units = inputs.sizes["out"]
        if not units == states.sizes["out"] == states.sizes["in"]:
            raise ValueError(f"{operation.name} is no plain recurrent cell")
        if not below and inputs.sizes["in"] != channels:
            raise ValueError(f"{operation.name} expects other rows than {width} x {channels}")
        own = biases(operation, wiring, f"bias_ih{suffix}", f"bias_hh{suffix}")
        activation = self.activation(operation) if "activation" in operation.facts else self.choice.activation
        steps: list[int] = []
        for step in range(height):
            link = Link(below[step], inputs) if below else Link(0, inputs, (1, width), origin=(step, 0))
            links = (link, Link(steps[-1], states)) if steps else (link,)
            name = f"{operation.name}{suffix}.{step}"
            self.net.append(Layer(name, "linear", units, (1, 1), links, own, activation=activation))
            steps.append(len(self.net) - 1)
        return steps


def widths_of(operation: Operation, wiring: Wiring) -> set[int]:
    """Lengths of the vectors of a norm."""
    views = (one_view(operation, wiring, role) for role in operation.tensors)
    return {view.sizes["out"] for view in views if view}


RUN = {
    "conv": _Run.conv,
    "batch norm": _Run.batch_norm,
    "norm": _Run.norm,
    "linear": _Run.linear,
    "attention": _Run.attention,
    "parameter": _Run.parameter,
    "recurrent": _Run.recurrent,
}
