"""Graphs that take an image and answer with logits: the shape of the image, and where the logits are."""

from dataclasses import replace

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.forward.from_checkpoint import forward_graph
from wsrl.forward.graph import ForwardGraph, needed_steps
from wsrl.forward.run import check_operators
from wsrl.program.read import RUN_BELOW, read_program
from wsrl.wiring.remembered import remembered_wiring

SIDE = 224  # pixels of images where the graph takes any size
COLORS = 3  # channels where it takes any number
SMALLEST = 8  # pixels of an image
PROBABILITIES = ("Softmax", "LogSoftmax", "Sigmoid")
PASSING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze")


def before_probabilities(graph: ForwardGraph) -> ForwardGraph:
    """Returns the graph that ends before its last operator makes probabilities of logits, if it does."""
    makers = {name: step for step in graph.steps for name in step.outputs}
    name = graph.output
    while (step := makers.get(name)) is not None and step.op in PASSING:
        name = step.inputs[0]
    return replace(graph, output=step.inputs[0]) if step is not None and step.op in PROBABILITIES else graph


def image_shape(graph: ForwardGraph, checkpoint: Checkpoint) -> tuple[tuple[int, int, int], bool, list[str]]:
    """Returns height, width and channels of what a network is fed, whether channels are last, and what was assumed.

    Raises:
      CheckpointError: it does not take images.
    """
    shape = graph.input_shape
    if len(shape) != 3:
        raise CheckpointError(checkpoint.path, "it does not take images", "search by weights")
    last = graph.channels_last or (shape[2] in (1, COLORS) and shape[0] not in (1, COLORS))
    *sides, channels = shape if last else (*shape[1:], shape[0])
    size = (sides[0] or sides[1] or SIDE, sides[1] or sides[0] or SIDE, channels or COLORS)
    if size[2] not in (1, COLORS) or min(size[:2]) < SMALLEST:
        reason = f"it does not take images, but {' x '.join(map(str, size))} numbers"
        raise CheckpointError(checkpoint.path, reason, "search by weights")
    return size, last, [] if None not in shape else [f"input: {'x'.join(map(str, size))}"]


def how_run(checkpoint: Checkpoint) -> str:
    """Returns a line on how a network is run; empty where its file does not tell its operators."""
    try:
        graph = forward_graph(checkpoint)
        if graph is None:
            return ""
        steps = needed_steps(graph)
        check_operators(steps, checkpoint)
        size, _, assumed = image_shape(graph, checkpoint)
    except CheckpointError as error:
        return f"not run by its operators: {error.reason}{_as_program(checkpoint)}"
    shape = "x".join(map(str, size))
    return f"its {len(steps):,} operators can be run on images of {shape}" + ", a size that is assumed" * bool(assumed)


def _as_program(checkpoint: Checkpoint) -> str:
    """What is said of a network that is small enough to be run as a program, if it can be."""
    try:
        if remembered_wiring(checkpoint).parameters > RUN_BELOW:
            return ""
        program = read_program(checkpoint)
    except CheckpointError:
        return ""
    size = program.facts.get("input")
    assumed = ", a size that is assumed" * (size is not None and size.source == "assumed")
    return f"; run as a program on images of {'x'.join(map(str, program.input_shape))}{assumed}"
