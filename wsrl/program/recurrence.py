"""Recurrent networks that read an image row by row: Elman cells, unrolled into one layer a step, then a head.

The steps of a cell share their tensors: step t reads row t (or step t of the cell below) and the state of step t - 1;
the state before the first is zero. Names: Flax's SimpleCell (`i/kernel`, `i/bias`, `h/kernel`) and PyTorch's RNN
(`weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`), whose two biases add up.
"""

from collections.abc import Iterator

from wsrl.program.chain import linear
from wsrl.program.hints import Choice, Hints
from wsrl.program.layers import Layer, Link
from wsrl.program.names import RECURRENT, Module

DEFAULT_ACTIVATION = "tanh"


def cells_of(modules: list[Module]) -> list[tuple[Module, Module]]:
    """Pairs (matrix of the inputs, matrix of the state) of each cell, in order; ValueError where half of one lacks."""
    by_path = {m.path: m for m in modules}
    cells = [(m, by_path[*m.path[:-1], "h"]) for m in modules if m.path[-1] == "i" and (*m.path[:-1], "h") in by_path]
    halves = [m for m in modules if _is_of_cell(m) and not any(m in cell for cell in cells)]
    if halves:
        raise ValueError(f"{halves[0].name} is half a recurrent cell")
    return cells


def matches(modules: list[Module]) -> bool:
    """Recurrent networks have cells, or what PyTorch names as one of a cell's matrices."""
    paths = {m.path for m in modules}
    return any(p[-1] == "i" and (*p[:-1], "h") in paths for p in paths) or any(map(_is_of_cell, modules))


def _is_of_cell(module: Module) -> bool:
    return any(RECURRENT.search(tensor) for tensor, _ in module.fields.values())


def choices(modules: list[Module], hints: Hints) -> Iterator[Choice]:
    """Yields one geometry: without a hint, images are square and gray."""
    row = cells_of(modules)[0][0].fan_in
    yield Choice(DEFAULT_ACTIVATION, hints.input_shape or (row, row, 1))


def layers(modules: list[Module], choice: Choice) -> list[Layer]:
    """Builds the steps of all cells and the head, which reads the last step."""
    cells = cells_of(modules)
    others = [m for m in modules if not any(m in cell for cell in cells)]
    heads = [m for m in others if m.kind == "dense"]
    if not heads:
        raise ValueError("no dense layer at the end")
    row = cells[0][0].fan_in
    height, width, channels = choice.input_shape
    if row != width * channels:
        raise ValueError(f"{cells[0][0].name} expects {row} inputs, a row has {width} x {channels}")
    net = [Layer("input", "input", channels, (height, width))]
    below: list[int] = []  # the steps of the cell before
    for inputs, state in cells:
        if not inputs.units == state.units == state.fan_in:
            raise ValueError(f"{state.name} is no plain recurrent cell")
        steps: list[int] = []
        for step in range(height):
            if below:
                link = Link(below[step], inputs.weight())
            else:
                link = Link(0, inputs.weight(flatten=(1, width)), (1, width), origin=(step, 0))
            links = (link, Link(steps[-1], state.weight())) if steps else (link,)
            biases = inputs.biases() + state.biases()
            name = f"{'.'.join(inputs.path[:-1])}.{step}"
            net.append(Layer(name, "linear", inputs.units, (1, 1), links, biases, activation=choice.activation))
            steps.append(len(net) - 1)
        below = steps
    for head in heads:
        activation = "identity" if head is heads[-1] else choice.activation
        net.append(linear(head, (1, 1), (Link(len(net) - 1, head.weight()),), None, activation))
    return net
