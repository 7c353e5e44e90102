"""What metadata or a user say of a network beside its tensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from wsrl.checkpoint import CheckpointError
from wsrl.program.layers import ACTIVATIONS, POOLINGS

HINTS = ("activation", "input_shape", "strides", "pooling", "heads")


@dataclass(frozen=True)
class Hints:
    """What is known of a network beside names and shapes; None where it is not.

    Attributes:
      activation: one of `ACTIVATIONS`.
      input_shape: [height, width, channels].
      strides: of all convolutions, in natural order of their names.
      pooling: `none`, or the kind of the 2 x 2 windows after convolutions, one of `POOLINGS`; strides without it mean
        `none`.
      heads: of attention.
    """

    activation: str | None = None
    input_shape: tuple[int, int, int] | None = None
    strides: tuple[int, ...] | None = None
    pooling: str | None = None
    heads: int | None = None


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
        activation, pooling = (str(metadata[k]) if metadata.get(k) else None for k in ("activation", "pooling"))
        if activation not in (None, *ACTIVATIONS):
            raise ValueError(f"activation {activation!r}")
        if pooling not in (None, "none", *POOLINGS):
            raise ValueError(f"pooling {pooling!r}")
        if shape is not None and (len(shape) != 3 or min(shape) < 1):
            raise ValueError(f"input_shape {shape}")
        if strides is not None and (min(strides, default=1) < 1):
            raise ValueError(f"strides {strides}")
        if heads is not None and heads[0] < 1:
            raise ValueError(f"heads {heads}")
    except (ValueError, TypeError) as error:
        known = ", ".join(ACTIVATIONS[1:])
        hint = (
            f"use an activation of {known}; pooling of none, {', '.join(POOLINGS)};"
            " input_shape [height, width, channels] and strides of 1 or more"
        )
        raise CheckpointError(file, f"metadata not understood ({error})", hint) from error
    if strides and pooling is None:
        pooling = "none"
    return Hints(activation, shape, strides or None, pooling, heads[0] if heads else None)  # type: ignore[arg-type]
