"""Infers programs, the layers of a network in the order in which they run, from the names and shapes of its tensors.

Activations, strides, pooling, the number of heads and the input's shape cannot always be read off weights. Hints from a
user or a manifest, or the checkpoint's metadata, say what they are (`activation`, `input_shape`, `strides`, `pooling`,
`heads`); else there are several programs, one for each usual choice that the shapes allow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from math import prod

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.program import chain, recurrence, residual, transformer
from wsrl.program.hints import HINTS, Choice, Hints, read_hints
from wsrl.program.layers import Layer, Program
from wsrl.program.names import parse_modules
from wsrl.wiring.wiring import Fact

FAMILIES = (transformer, recurrence, residual, chain)  # a chain matches whatever has weights
USUAL_ACTIVATIONS = ("relu", "tanh", "gelu")  # others are close to one of these
MOST = 256  # programs of a checkpoint


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
    modules = parse_modules(checkpoint)
    try:
        family = next(family for family in FAMILIES if family.matches(modules))
        choices = list(islice(_choices(family.choices(modules, known), known), MOST))
        built = [tuple(family.layers(modules, choice)) for choice in choices]
        for layers in built:
            check_shapes(layers, checkpoint)
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
        Program(layers, {name: Fact(value, source(name, value)) for name, value in choice.facts().items()})
        for layers, choice in zip(built, choices, strict=True)
    ]


def read_program(checkpoint: Checkpoint, hints: Mapping[str, object] | None = None) -> Program:
    """Returns the most usual program; see `read_programs`."""
    return read_programs(checkpoint, hints)[0]


def _choices(geometries: Iterator[Choice], hints: Hints) -> Iterator[Choice]:
    """Each geometry with each activation, the family's default first."""
    for choice in geometries:
        usual = dict.fromkeys((choice.activation, *USUAL_ACTIVATIONS))
        for activation in [hints.activation] if hints.activation else usual:
            yield replace(choice, activation=activation)


def check_shapes(layers: tuple[Layer, ...], checkpoint: Checkpoint) -> None:
    """Checks views against tensors and links against layers; raises ValueError where they do not fit."""
    for layer in layers:
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
            source = layers[link.source]
            sizes = link.weight.sizes if link.weight else {"in": source.units}
            fan_in = sizes["in"] if "in" in sizes else sizes["heads_in"] * sizes["dim_in"]
            if fan_in != source.units:
                raise ValueError(f"{layer.name} reads {fan_in} units, {source.name} has {source.units}")
        if min(layer.grid) < 1:
            raise ValueError(f"layer {layer.name} has an empty map")
