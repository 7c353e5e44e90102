"""Attention of dense sweeps and its cotangents, in NumPy."""

from collections.abc import Iterator
from math import sqrt

import numpy as np
from jaxtyping import Float32

from wsrl.encoder.dense_windows import State


def by_head(state: State, heads: int) -> Float32[np.ndarray, "_heads _columns _positions _dim"]:
    """Cuts the units of a state into heads, and puts its positions in a row."""
    height, width, units, columns = state.shape
    split = state.reshape(height * width, heads, units // heads, columns)
    return np.ascontiguousarray(split.transpose(1, 3, 0, 2))


def by_unit(by_head: Float32[np.ndarray, "_heads _columns _positions _dim"], grid: tuple[int, int]) -> State:
    """The inverse of `by_head`."""
    heads, columns, _, dim = by_head.shape
    return np.ascontiguousarray(by_head.transpose(2, 0, 3, 1)).reshape(*grid, heads * dim, columns)


def attention_weights(
    query: np.ndarray, key: np.ndarray
) -> Float32[np.ndarray, "_heads _columns _positions _positions"]:
    """How much each position attends to each other one."""
    scores = query @ key.swapaxes(-1, -2) / np.float32(sqrt(query.shape[-1]))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def pull_attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, cotangent: np.ndarray
) -> Iterator[Float32[np.ndarray, "_classes _heads _columns _positions _dim"]]:
    """Cotangents of query, key and value, in this order; all by heads."""
    weights = attention_weights(query, key)
    slope = cotangent @ value.swapaxes(-1, -2)
    scores = weights * (slope - (slope * weights).sum(-1, keepdims=True)) / np.float32(sqrt(query.shape[-1]))
    yield scores @ key
    yield scores.swapaxes(-1, -2) @ query
    yield weights.swapaxes(-1, -2) @ cotangent
