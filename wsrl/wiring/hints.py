"""What is known of a network beside the names and shapes of its tensors, and what can be guessed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt, log2

from wsrl.checkpoint import CheckpointError
from wsrl.wiring.layers import ACTIVATIONS
from wsrl.wiring.names import Module

DEFAULT_GRID = 16  # pixels a side, for convolutional networks whose input size is not known


@dataclass(frozen=True)
class Hints:
    """What is known of a network beside names and shapes; None where it is not."""

    activation: str
    strides: tuple[int, ...] | None
    heads: int | None
    input_shape: tuple[int, int, int] | None  # [height, width, channels]


def _numbers(value: object) -> tuple[int, ...] | None:
    if value in (None, "", "None"):
        return None
    if isinstance(value, str):
        value = json.loads(f"[{value.strip('[]()')}]")
    return tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)  # type: ignore[arg-type]


def read_hints(metadata: Mapping[str, object], file: str) -> Hints:
    """Reads the hints out of metadata; values may be numbers, lists or their text.

    Raises:
      CheckpointError: a value is not of the expected form.
    """
    try:
        strides, heads, shape = (_numbers(metadata.get(k)) for k in ("strides", "heads", "input_shape"))
        activation = str(metadata.get("activation") or "relu")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r}")
        if shape is not None and (len(shape) != 3 or min(shape) < 1):
            raise ValueError(f"input_shape {shape}")
        if strides is not None and (min(strides, default=1) < 1):
            raise ValueError(f"strides {strides}")
        if heads is not None and heads[0] < 1:
            raise ValueError(f"heads {heads}")
    except (ValueError, TypeError) as error:
        known = ", ".join(ACTIVATIONS[1:])
        mend = f"use an activation of {known}; input_shape [height, width, channels] and strides of 1 or more"
        raise CheckpointError(file, f"metadata not understood ({error})", mend) from error
    return Hints(activation, strides, heads[0] if heads else None, shape)  # type: ignore[arg-type]


def guess_input_shape(first: Module) -> tuple[int, int, int]:
    """Guesses [height, width, channels] from the first layer's weights."""
    if first.kind == "conv":
        return (DEFAULT_GRID, DEFAULT_GRID, first.fan_in)
    for channels in (1, 3):
        side = isqrt(first.fan_in // channels)
        if first.fan_in == channels * side * side:
            return (side, side, channels)
    return (1, first.fan_in, 1)


def guess_strides(convs: list[Module], grid: int, flattened_grid: int | None) -> tuple[int, ...]:
    """Guesses the strides of a chain of convolutions: 2, until the map has shrunk to what the dense layer expects."""
    if flattened_grid is None:
        return (2,) * len(convs)
    halvings = round(log2(max(1, grid / max(1, flattened_grid))))
    return tuple(2 if i < halvings else 1 for i in range(len(convs)))
