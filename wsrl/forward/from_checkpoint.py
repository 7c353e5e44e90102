"""Which checkpoints tell how their network is run."""

from dataclasses import replace

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.forward.families.recognize import family_graph
from wsrl.forward.graph import ForwardGraph
from wsrl.forward.keras_graph import from_keras
from wsrl.forward.onnx_graph import from_onnx
from wsrl.forward.tflite_graph import from_tflite
from wsrl.wiring.remembered import remembered_wiring

GRAPHS = {"ONNX": from_onnx, "TFLite": from_tflite}  # by the format of the file


def forward_graph(checkpoint: Checkpoint) -> ForwardGraph | None:
    """Returns the operators of a network, or None where neither its graph nor a known family tells them.

    Raises:
      CheckpointError: the file has a graph, but not one that takes an image and gives one answer.
    """
    if checkpoint.keras_config:
        return from_keras(checkpoint)
    read = GRAPHS.get(checkpoint.format)
    if read is None or "graph" not in checkpoint.metadata:
        return _of_family(checkpoint)
    try:
        return read(checkpoint)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            checkpoint.path, f"its graph is not well-formed ({error!r})", "export it again"
        ) from error


def _of_family(checkpoint: Checkpoint) -> ForwardGraph | None:
    """The operators of an image model that names, shapes and configuration tell; None if they tell none."""
    try:
        graph, facts = family_graph(checkpoint, remembered_wiring(checkpoint))
    except CheckpointError:
        return None
    assumed = tuple(f"{name}: {fact.value}" for name, fact in facts.items() if fact.source == "assumed")
    return replace(graph, assumed=(*graph.assumed, *assumed))
