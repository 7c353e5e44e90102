"""The matrices of recurrent layers in one form: a matrix for each direction and gate.

Files stack gates along either axis and directions along a third, or keep them apart.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from wsrl.wiring.wiring import Operation, Wiring

STATES = re.compile("hh|recurrent")  # roles of matrices that read the states of their own layer
PROJECTED = re.compile("hr")  # of those that project states (only LSTMs have them)
GATES = (1, 3, 4)  # of plain, GRU and LSTM layers

Index = tuple[int | slice, ...]


def recurrent_parts(operation: Operation, wiring: Wiring) -> Iterator[tuple[str, Index, int]]:
    """Yields the matrices of a recurrent layer, not its biases: the tensor, a part of it, and how many gates it has."""
    weights = {role: name for role, name in operation.tensors.items() if "bias" not in role}
    rows, gates = _rows(weights, wiring)
    for name in weights.values():
        shape = wiring.shapes[name]
        if len(shape) < 2:
            continue
        written = [axis for axis in operation.axes_of(name, operation.writes) if shape[axis] == rows]
        axis = next(iter(written), next((i for i in (-2, -1) if shape[i] == rows), None))
        edges = [i * rows // gates for i in range(gates + 1)]
        cuts = [slice(None)] if axis is None else [slice(*edge) for edge in pairwise(edges)]
        for direction in range(shape[0]) if len(shape) == 3 else (None,):
            for cut in cuts:
                matrix: list[slice] = [slice(None), slice(None)]
                if axis is not None:
                    matrix[axis if axis < 0 else axis - len(shape)] = cut
                yield name, tuple(matrix) if direction is None else (direction, *matrix), len(cuts)


def _rows(weights: dict[str, str], wiring: Wiring) -> tuple[int, int]:
    """The rows of all gates, and how many gates there are: one where that cannot be told."""
    projected = any(PROJECTED.search(role) for role in weights)
    for role, name in weights.items():
        shape = wiring.shapes[name]
        if STATES.search(role) and len(shape) > 1:
            short, long = sorted(shape[-2:])
            gates = 4 if projected else long // short
            if long % gates == 0 and (projected or long == gates * short) and gates in GATES:
                return long, gates
    return 0, 1
