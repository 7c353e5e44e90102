"""What the names and shapes of a network's tensors leave open: given by metadata or a user, or one of alternatives."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt

from wsrl.checkpoint import CheckpointError
from wsrl.program.layers import ACTIVATIONS, POOLINGS
from wsrl.program.names import Module

HINTS = ("activation", "input_shape", "strides", "pooling", "heads")
SIDES = (28, 32, 16)  # pixels a side of small images: of MNIST and its like, of CIFAR and its like, of small zoos
MORE_SIDES = (8, 12, 20, 24, 40, 48, 56, 64)  # larger images say no more than those of the encoder, at a high cost


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


@dataclass(frozen=True)
class Downsampling:
    """What a chain of convolutions does to maps.

    Attributes:
      strides: of each convolution.
      padded: whether maps are padded by half the kernel, else not at all.
      pooling: one of `POOLINGS`; of no matter where no convolution is pooled.
      pooled: whether 2 x 2 windows of the convolution's map are pooled, after the activation.
    """

    strides: tuple[int, ...]
    padded: bool
    pooling: str
    pooled: tuple[bool, ...]

    def facts(self) -> dict[str, str]:
        """As words, by name."""
        last = len(self.pooled) - 1
        places = [i for i, pooled in enumerate(self.pooled) if pooled]
        if len(places) == len(self.pooled):
            where = "each convolution"
        elif places == list(range(last)):
            where = "each convolution but the last"
        else:
            where = "convolution " + " and ".join(str(i + 1) for i in places)
        return {
            "strides": ", ".join(map(str, self.strides)),
            "padding": "half the kernel" if self.padded else "none",
            "pooling": f"{self.pooling} 2x2 after {where}" if places else "none",
        }


@dataclass(frozen=True)
class Choice:
    """A network's activation and geometry, one of those that its tensors allow.

    Attributes:
      activation: of hidden layers, one of `ACTIVATIONS`.
      input_shape: [height, width, channels].
      downsampling: of a chain of convolutions; None in other families.
      heads: of attention, where the shapes of the projections do not say.
    """

    activation: str
    input_shape: tuple[int, int, int]
    downsampling: Downsampling | None = None
    heads: int | None = None

    def facts(self) -> dict[str, str]:
        """As words, by name."""
        words = {"activation": self.activation, "input": "x".join(map(str, self.input_shape))}
        if self.downsampling:
            words |= self.downsampling.facts()
        if self.heads:
            words["heads"] = str(self.heads)
        return words


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


def input_shapes(first: Module, hints: Hints, sides: tuple[int, ...] = SIDES) -> list[tuple[int, int, int]]:
    """Shapes [height, width, channels] of the images that the first layer may read, the most usual first.

    Args:
      first: a convolution reads images of any size; a dense layer reads whole ones, square where that is possible.
      hints: a shape among them is the only one.
      sides: that images may have.
    """
    if hints.input_shape:
        return [hints.input_shape]
    if first.kind == "conv":
        # images in color are more often of 32 pixels, as CIFAR's, than of 28
        ordered = sides if first.fan_in == 1 else tuple(sorted(sides, key=lambda side: side != 32))
        return [(side, side, first.fan_in) for side in ordered]
    for channels in (1, 3):
        side = isqrt(first.fan_in // channels)
        if first.fan_in == channels * side * side:
            return [(side, side, channels)]
    return [(1, first.fan_in, 1)]


def downsamplings(count: int, hints: Hints) -> Iterator[Downsampling]:
    """What a chain of `count` convolutions may do to maps, the most usual first.

    Strides are 2 for all convolutions or for the first or last of them; or 1 with 2 x 2 windows pooled after all of
    them, all but the last, the last, or every other one.
    """
    plain = (1,) * count
    none = (False,) * count
    for padded in (True, False):
        if hints.pooling in (None, "none"):
            shrinking = [(2,) * k + (1,) * (count - k) for k in range(count, 0, -1)] + [
                (1,) + (2,) * (count - 1),
                plain,
            ]
            for strides in [hints.strides] if hints.strides else dict.fromkeys(shrinking):
                yield Downsampling(strides, padded, POOLINGS[0], none)
        places = (
            (True,) * count,
            (True,) * (count - 1) + (False,),
            (False,) * (count - 1) + (True,),
            tuple(i % 2 == 1 for i in range(count)),
        )
        for pooling in POOLINGS:
            if hints.pooling in (None, pooling):
                for pooled in dict.fromkeys(p for p in places if any(p)):
                    yield Downsampling(hints.strides or plain, padded, pooling, pooled)
