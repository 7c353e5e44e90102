"""Programs of checkpoints: what is stated decides, and of what stays open every usual choice is one program.

Activations, strides, pooling, the number of heads and the input's shape cannot always be read off weights. Hints from a
user or a manifest, the checkpoint's metadata or its graph say what they are (`activation`, `input_shape`, `strides`,
`pooling`, `heads`); else there are several programs, one for each usual choice that the shapes allow.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from math import prod

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.program.choices import Choice, choices, leaves_activation, takes_activation
from wsrl.program.compile import Compiler
from wsrl.program.hints import HINTS, Hints, read_hints
from wsrl.program.layers import Layer
from wsrl.program.program import Program
from wsrl.wiring.remembered import Memory, remembered_wiring, wiring_key
from wsrl.wiring.wiring import Fact, Wiring

MOST = 256  # programs of a checkpoint
RUN_BELOW = 2**23  # parameters of a network that is run as a program
PROGRAMS: Memory[list[Program]] = Memory()


def compile_programs(
    checkpoint: Checkpoint, wiring: Wiring, hints: Mapping[str, object] | None = None
) -> list[Program]:
    """Returns the programs that a wiring, the checkpoint's metadata and hints allow, the most usual first.

    Args:
      checkpoint: its values are not read.
      wiring: of the checkpoint.
      hints: values of `HINTS`, as in metadata, which they go before.

    Raises:
      CheckpointError: the operations do not form a network that can be run, or a hint is not of its form.
    """
    given = {key: value for key, value in (hints or {}).items() if key in HINTS and value is not None}
    known = read_hints({**checkpoint.metadata, **given}, checkpoint.path)
    try:
        built = list(islice(_built(wiring, known), MOST))
    except (ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            checkpoint.path, f"its tensors do not form a network that can be run ({error})", "leave it out"
        ) from error
    told = told_facts(wiring)
    chosen = [_facts(choice, wiring) for choice, _ in built]
    everywhere = set.intersection(*(set(facts.items()) for facts in chosen))

    def source(name: str, value: str) -> str:
        key = {"input": "input_shape", "pooling": "strides" if known.strides else "pooling"}.get(name, name)
        if getattr(known, key, None) is not None:
            return "hint" if key in given or name in given else "metadata"
        if name == "input" and value.startswith("1x") and "input" not in told:
            return "assumed"  # a dense layer reads so many numbers, which nothing says to be an image
        return "shapes" if (name, value) in everywhere else "assumed"

    return [
        Program(layers, {name: Fact(value, source(name, value)) for name, value in facts.items()} | told, wiring)
        for (_, layers), facts in zip(built, chosen, strict=True)
    ]


def read_programs(checkpoint: Checkpoint, hints: Mapping[str, object] | None = None) -> list[Program]:
    """Returns the programs of a checkpoint by the wiring that is inferred; see `compile_programs`.

    They are kept for checkpoints that differ in nothing but values.
    """
    told = repr([{key: source.get(key) for key in HINTS} for source in (checkpoint.metadata, hints or {})])
    key = (wiring_key(checkpoint), told)
    return PROGRAMS.get(key, lambda: compile_programs(checkpoint, remembered_wiring(checkpoint), hints))


def read_program(checkpoint: Checkpoint, hints: Mapping[str, object] | None = None) -> Program:
    """Returns the most usual program; see `compile_programs`."""
    return read_programs(checkpoint, hints)[0]


def _built(wiring: Wiring, hints: Hints) -> Iterator[tuple[Choice, tuple[Layer, ...]]]:
    """Choices with their layers; where the file tells the geometry, only those that fit it.

    Raises:
      ValueError: there are none.
    """
    compiler = Compiler(wiring)
    refused: ValueError | None = None
    found = False
    for choice in choices(wiring, hints):
        try:
            layers = compiler.layers(choice)
            check_shapes(layers, wiring)
        except ValueError as error:
            if choice.downsampling is not None:
                raise
            refused = error
            continue
        found = True
        yield choice, layers
    if not found:
        raise refused or ValueError("no layers")


def _facts(choice: Choice, wiring: Wiring) -> dict[str, str]:
    """What a choice says, but for an activation that no operation takes from it."""
    return {name: value for name, value in choice.facts().items() if name != "activation" or takes_activation(wiring)}


def told_facts(wiring: Wiring) -> dict[str, Fact]:
    """What a graph or configuration tells of activations, strides and pooling, in the words of programs."""
    facts: dict[str, Fact] = {}
    names = {"activation": "activation", "stride": "strides", "pooling": "pooling"}
    hidden = wiring.operations[:-1]  # what follows the outputs is of no matter
    for name, shown in names.items():
        own = [o.facts[name] for o in hidden if name in o.facts]
        own = [fact for fact in own if fact.source in ("graph", "config") and fact.value not in (None, "none")]
        if own and not (name == "activation" and leaves_activation(wiring)):
            values = [str(f.value[0] if isinstance(f.value, tuple) else f.value) for f in own]
            facts[shown] = Fact(", ".join(values if name == "stride" else dict.fromkeys(values)), own[0].source)
    shape = next((o.facts["input"] for o in wiring.operations if "input" in o.facts), None)
    if shape is not None and isinstance(shape.value, tuple):
        facts["input"] = Fact("x".join(map(str, shape.value)), shape.source)
    return facts


def check_shapes(layers: tuple[Layer, ...], wiring: Wiring) -> None:
    """Checks views against tensors and links against layers; raises ValueError where they do not fit."""
    for layer in layers:
        norm = layer.norm
        vectors = [*layer.biases, *([norm.gain, norm.bias, norm.mean, norm.variance] if norm else [])]
        for view in [*(link.weight for link in layer.links), *vectors]:
            if view is not None and view.shape != wiring.shapes[view.tensor]:
                raise ValueError(f"{view.tensor} has shape {wiring.shapes[view.tensor]}, expected {view.shape}")
        for view in vectors:
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
