"""LSTM and GRU, forward, backward or both."""

from collections.abc import Callable

import numpy as np

from wsrl.forward.operators.call import Call, Operator
from wsrl.forward.operators.entries import sigmoid

State = tuple[np.ndarray, ...]
Cell = Callable[[np.ndarray, State, np.ndarray, np.ndarray, bool], State]


def _lstm_cell(inputs: np.ndarray, state: State, weight: np.ndarray, bias: np.ndarray, _: bool) -> State:
    """One step; gates lie in the order input, output, forget, cell."""
    hidden, cell = state
    gates = inputs + hidden @ weight.T + bias
    i, o, f, c = np.split(gates, 4, axis=-1)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
    return sigmoid(o) * np.tanh(cell), cell


def _gru_cell(inputs: np.ndarray, state: State, weight: np.ndarray, bias: np.ndarray, after: bool) -> State:
    """One step; gates lie in the order update, reset, hidden. The reset acts before the product, or `after` it."""
    (hidden,) = state
    size = hidden.shape[-1]
    z, r = np.split(sigmoid(inputs[:, : 2 * size] + hidden @ weight[: 2 * size].T + bias[: 2 * size]), 2, axis=-1)
    own, shift = weight[2 * size :], bias[2 * size :]
    candidate = r * (hidden @ own.T + shift) if after else (r * hidden) @ own.T + shift
    return ((1 - z) * np.tanh(inputs[:, 2 * size :] + candidate) + z * hidden,)


def _run(call: Call, cell: Cell, states: int) -> list[np.ndarray]:
    x, weights, recurrent = call[0], call[1], call[2]
    if call.get(4) is not None and np.any(call[4] != x.shape[0]):
        raise ValueError("sequences of different lengths are not known")
    if any(name in call.attributes for name in ("activations", "clip")) and not _usual(call, states):
        raise ValueError("gates of another kind are not known")
    if call.integer("layout", 0) or (states == 2 and call.get(7) is not None and np.any(call[7])):
        raise ValueError("batches first, or peepholes, are not known")
    steps, batch = x.shape[:2]
    directions, size = weights.shape[0], recurrent.shape[-1]
    call.cost.claim((steps, directions, batch, size), copies=6)
    call.cost.spend(steps * batch * (weights.size + recurrent.size))
    biases = call.get(3)
    outputs, ends = [], []
    for d in range(directions):
        backward = d == 1 or call.text("direction", "forward") == "reverse"
        halves = np.split(biases[d], 2) if biases is not None else [np.zeros(len(weights[d]), np.float32)] * 2
        inputs = x @ weights[d].T + halves[0]
        zero = np.zeros((batch, size), np.float32)
        first = [call.get(5 + i) for i in range(states)]
        state: State = tuple(zero if value is None else value[d] for value in first)
        found = np.empty((steps, batch, size), np.float32)
        for t in range(steps)[::-1] if backward else range(steps):
            state = cell(inputs[t], state, recurrent[d], halves[1], bool(call.integer("linear_before_reset", 0)))
            found[t] = state[0]
        outputs.append(found)
        ends.append(state)
    return [np.stack(outputs, 1), *(np.stack([end[i] for end in ends]) for i in range(states))]


def _usual(call: Call, states: int) -> bool:
    names = call.attributes.get("activations")
    usual = ("Sigmoid", "Tanh", "Tanh")[: states + 1]
    told = tuple(str(name).capitalize() for name in names) if isinstance(names, list | tuple) else usual
    return "clip" not in call.attributes and told == usual * (len(told) // len(usual))


OPERATORS: dict[str, Operator] = {
    "LSTM": lambda call: _run(call, _lstm_cell, 2),
    "GRU": lambda call: _run(call, _gru_cell, 1),
}
