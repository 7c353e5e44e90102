"""Infers programs, the layers of a network in the order in which they run, from the names and shapes of its tensors.

Activations, strides, pooling, the number of heads and the input's shape cannot always be read off weights. Hints from a
user or a manifest, or the checkpoint's metadata, say what they are (`activation`, `input_shape`, `strides`, `pooling`,
`heads`); else there are several programs, one for each usual choice that the shapes allow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from math import prod

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.wiring import chain, recurrence, residual, transformer
from wsrl.wiring.hints import HINTS, Choice, Hints, read_hints
from wsrl.wiring.layers import Wiring
from wsrl.wiring.names import parse_modules

FAMILIES = (transformer, recurrence, residual, chain)  # a chain matches whatever has weights
USUAL_ACTIVATIONS = ("relu", "tanh", "gelu")  # others are close to one of these
MOST = 256  # programs of a checkpoint


@dataclass(frozen=True)
class Fact:
    """Something that has to be known to run a network.

    Attributes:
      name: `activation`, `input`, `strides`, `padding`, `pooling` or `heads`.
      value: e.g. `tanh`, `28x28x1`, `max 2x2 after each convolution`.
      source: `hint`, `metadata`, `shapes` (no other usual value fits the tensors' names and shapes) or `assumed`.
    """

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class Program:
    """A network that can be run.

    Attributes:
      wiring: layers in the order in which they run.
      facts: what the program rests on beside names and shapes.
    """

    wiring: Wiring
    facts: tuple[Fact, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[height, width, channels] of the images that it is fed."""
        first = self.wiring.layers[0]
        return (*first.grid, first.units)

    @property
    def values(self) -> dict[str, str]:
        """Values of the facts by their names."""
        return {fact.name: fact.value for fact in self.facts}

    @property
    def assumed(self) -> tuple[str, ...]:
        """The facts that nothing but usage speaks for, as `activation: tanh`."""
        return tuple(f"{fact.name}: {fact.value}" for fact in self.facts if fact.source == "assumed")


def read_programs(checkpoint: Checkpoint, hints: Mapping[str, object] | None = None) -> list[Program]:
    """Returns the programs that a checkpoint's names, shapes, metadata and hints allow, the most usual first.

    Args:
      checkpoint: its values are not read.
      hints: values of `HINTS`, as in metadata, which they go before.

    Raises:
      CheckpointError: the names and shapes do not form a network of a known family, or a hint is not of its form.
    """
    given = {key: value for key, value in (hints or {}).items() if key in HINTS and value is not None}
    known = read_hints({**checkpoint.metadata, **given}, checkpoint.path)
    modules, ignored = parse_modules(checkpoint)
    try:
        family = next(family for family in FAMILIES if family.matches(modules))
        choices = list(islice(_choices(family.choices(modules, known), known), MOST))
        wirings = [Wiring(tuple(family.layers(modules, choice)), tuple(ignored)) for choice in choices]
        for wiring in wirings:
            check_shapes(wiring, checkpoint)
    except (ValueError, KeyError, IndexError, StopIteration, ZeroDivisionError) as error:
        raise CheckpointError(
            checkpoint.path, f"its tensors do not form a network of a known family ({error})", "leave it out"
        ) from error
    everywhere = set.intersection(*(set(choice.facts().items()) for choice in choices))

    def source(name: str, value: str) -> str:
        key = {"input": "input_shape", "pooling": "strides" if known.strides else "pooling"}.get(name, name)
        if getattr(known, key, None) is not None:
            return "hint" if key in given or name in given else "metadata"
        return "shapes" if (name, value) in everywhere else "assumed"

    return [
        Program(wiring, tuple(Fact(name, value, source(name, value)) for name, value in choice.facts().items()))
        for wiring, choice in zip(wirings, choices, strict=True)
    ]


def infer_wiring(checkpoint: Checkpoint, hints: Mapping[str, object] | None = None) -> Wiring:
    """Returns the layers of the most usual program; see `read_programs`."""
    return read_programs(checkpoint, hints)[0].wiring


def _choices(geometries: Iterator[Choice], hints: Hints) -> Iterator[Choice]:
    """Each geometry with each activation, the family's default first."""
    for choice in geometries:
        usual = dict.fromkeys((choice.activation, *USUAL_ACTIVATIONS))
        for activation in [hints.activation] if hints.activation else usual:
            yield replace(choice, activation=activation)


def check_shapes(wiring: Wiring, checkpoint: Checkpoint) -> None:
    """Checks views against tensors and links against layers; raises ValueError where they do not fit."""
    for layer in wiring.layers:
        norm = layer.norm
        views = [link.weight for link in layer.links] + [*layer.biases]
        views += [norm.gain, norm.bias, norm.mean, norm.variance] if norm else []
        for view in views:
            if view is not None and view.shape != checkpoint.tensors[view.tensor].shape:
                found = checkpoint.tensors[view.tensor].shape
                raise ValueError(f"{view.tensor} has shape {found}, expected {view.shape}")
        for view in [*layer.biases, *([norm.gain, norm.bias, norm.mean, norm.variance] if norm else [])]:
            if (
                view is not None
                and prod(view.sizes[n] for axis in view.axes for n in axis if n != "part") != layer.units
            ):
                raise ValueError(f"{view.tensor} does not hold one number for each of the {layer.units} units")
        for link in layer.links:
            source = wiring.layers[link.source]
            sizes = link.weight.sizes if link.weight else {"in": source.units}
            fan_in = sizes["in"] if "in" in sizes else sizes["heads_in"] * sizes["dim_in"]
            if fan_in != source.units:
                raise ValueError(f"{layer.name} reads {fan_in} units, {source.name} has {source.units}")
        if min(layer.grid) < 1:
            raise ValueError(f"layer {layer.name} has an empty map")
