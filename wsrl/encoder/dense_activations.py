"""Activations of dense sweeps and their derivatives, in NumPy."""

from collections.abc import Callable
from math import sqrt

import numpy as np

ZERO, INFINITY = np.float32(0), np.float32(np.inf)
LEAKY_SLOPE = np.float32(0.01)
GELU = (sqrt(2 / np.pi), 0.044715)  # of its tanh approximation


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5  # does not overflow


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.tanh(GELU[0] * (x + GELU[1] * x * x * x))


def _gelu_slope(x: np.ndarray) -> np.ndarray:
    bent = _gelu_tanh(x)
    return 0.5 * (1 + bent) + 0.5 * x * (1 - bent * bent) * GELU[0] * (1 + 3 * GELU[1] * x * x)


def _silu_slope(x: np.ndarray) -> np.ndarray:
    opened = _sigmoid(x)
    return opened * (1 + x * (1 - opened))


# value, written to `out`, and derivative
FUNCTIONS: dict[str, tuple[Callable[..., np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (np.positive, np.ones_like),
    # NumPy clips between two bounds in vector instructions, but not above one, nor in `maximum` of array and number
    "relu": (lambda x, out: np.clip(x, ZERO, INFINITY, out=out), lambda x: (x > 0).astype(x.dtype)),
    "tanh": (np.tanh, lambda x: 1 - np.square(np.tanh(x))),
    "gelu": (lambda x, out: np.multiply(0.5 * x, 1 + _gelu_tanh(x), out=out), _gelu_slope),
    "silu": (lambda x, out: np.multiply(x, _sigmoid(x), out=out), _silu_slope),
    "leaky_relu": (
        lambda x, out: np.maximum(x, LEAKY_SLOPE * x, out=out),
        lambda x: np.where(x >= 0, np.float32(1), LEAKY_SLOPE),
    ),
}
