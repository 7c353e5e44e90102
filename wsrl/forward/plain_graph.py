"""What the graphs of the readers of ONNX and TFLite files have in common: inputs, outputs, small constants."""

from collections.abc import Mapping

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError

MEND = "search by weights"
SHOWN = 3  # names of inputs in a message


def input_of(checkpoint: Checkpoint, graph: Mapping) -> tuple[str, int | None, tuple[int | None, ...]]:
    """Returns name, batch and shape of the one value that a graph reads; None stands for a length that is left open.

    Raises:
      CheckpointError: there are several, or none.
    """
    inputs = [value for value in graph["inputs"] if value and value["name"] not in checkpoint.tensors]
    if len(inputs) != 1:
        named = f" ({', '.join(value['name'] for value in inputs[:SHOWN])})" if inputs else ""
        reason = f"it reads {len(inputs)} values{named}, where one image is expected"
        raise CheckpointError(checkpoint.path, reason, MEND)
    shape = [n if isinstance(n, int) and n > 0 else None for n in inputs[0]["shape"] or (None,)]
    return inputs[0]["name"], shape[0], tuple(shape[1:])


def answer_of(checkpoint: Checkpoint, graph: Mapping) -> str:
    """Returns the name of the one value that a graph returns.

    Raises:
      CheckpointError: there are several, as of detectors, or none.
    """
    outputs = [value["name"] for value in graph["outputs"] if value]
    if len(outputs) != 1:
        raise CheckpointError(checkpoint.path, f"it returns {len(outputs)} values, where classes are expected", MEND)
    return outputs[0]


def constants_of(graph: Mapping, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Returns small constants that are no tensors of the checkpoint."""
    found = {}
    for name, value in graph["constants"].items():
        if name not in checkpoint.tensors and value is not None:
            array = np.asarray(value)
            found[name] = array if array.size else array.astype(np.int64)
    return {name: value for name, value in found.items() if value.dtype.kind in "biuf"}
