"""What is run: operators in order, by the names and the semantics of ONNX.

Graphs of ONNX, TFLite and Keras files are brought into this form, and so are families of image models whose
operators follow from the names, the shapes and the configuration of a PyTorch file.
Semantics: https://onnx.ai/onnx/operators, in the version that the newest set of operators gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Step:
    """One operator applied to values.

    Attributes:
      op: name of the ONNX operator, e.g. `Conv`.
      inputs: names of values: results of earlier steps, constants, tensors of the checkpoint, or the graph's input; ""
        stands for an optional input that is not given.
      outputs: names of its results.
      attributes: of the operator, plain numbers, texts and tuples of them.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ForwardGraph:
    """A network as operators in an order in which they can run.

    Attributes:
      steps: every input of a step is known before it.
      input: name of the one value that a caller gives.
      input_shape: of `input` without the batch, as the first step takes it: (channels, height, width) where
        `channels_last` is false, (height, width, channels) where it is true. None is a length left open.
      output: name of the value that holds the answers, [batch, outputs].
      constants: small arrays that are no tensors of the checkpoint, such as shapes and axes.
      channels_last: see `input_shape`.
      batch: how many inputs it takes at a time; None for any number.
      assumed: what the file does not tell of it, e.g. `activation: relu`.
    """

    steps: tuple[Step, ...]
    input: str
    input_shape: tuple[int | None, ...]
    output: str
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    channels_last: bool = False
    batch: int | None = None
    assumed: tuple[str, ...] = ()


def needed_steps(graph: ForwardGraph) -> list[Step]:
    """Returns the steps that the output depends on, in order."""
    wanted, found = {graph.output}, []
    for step in reversed(graph.steps):
        if wanted & set(step.outputs):
            wanted |= set(step.inputs)
            found.append(step)
    return found[::-1]
