"""Function vectors of networks of any size: what they answer to natural images when their operators are run.

A file does not tell how images are scaled, unless its graph begins by scaling them itself. Else the vector is the mean
over the usual scales.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from threadpoolctl import threadpool_limits

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.encoder.answer_vector import answer_vector, probe_order
from wsrl.encoder.files import read_encoder
from wsrl.encoder.swept import fit_inputs
from wsrl.encoder.tinted import tinted
from wsrl.forward.cost import Cost
from wsrl.forward.from_checkpoint import forward_graph
from wsrl.forward.graph import ForwardGraph, Step, needed_steps
from wsrl.forward.image_network import before_probabilities, image_shape
from wsrl.forward.kind import graph_kind
from wsrl.forward.run import run

PROBES = (128, 64, 32)  # images that a network is run on: the most that the work allows
SMALLEST = 1e-9
SEEN = 8  # images that the scale is chosen on
MOST_WORK = 1.6e12  # for all images and scales; about half a minute on two cores
MOST_BYTES = 2**31  # for one image
BATCH_BYTES, BATCH = 2**27, 16  # for the images that are run together
WORKERS = 4  # that run images at a time
WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose", "Einsum")
USUAL = ("standardized", "-1 to 1", "0 to 1")
SCALING = ("Add", "Sub", "Mul", "Div", "BatchNormalization")  # of pixels, where they come before all weights
SCALES = {  # factor and offset of pixels from -1 to 1; standardized by a deviation of a quarter of their range
    **{"standardized": (2.0, 0.0), "-1 to 1": (1.0, 0.0), "0 to 1": (0.5, 0.5), "0 to 255": (127.5, 127.5)},
}


@dataclass(frozen=True)
class AnswerVector:
    """What is said of a network that was run by its operators.

    Attributes:
      vector: of length 1; see `wsrl.encoder.answer_vector`.
      kind: of the network, see `wsrl.forward.kind`.
      assumed: what the file does not tell.
    """

    vector: Float32[np.ndarray, " dim"]
    kind: str
    assumed: tuple[str, ...]


class AnswerEncoder:
    """Describes networks by their answers to the natural images of an encoder.

    Args:
      directory: of the encoder, see `wsrl.encoder.files`.

    Raises:
      InputError: the encoder cannot be read.
    """

    def __init__(self, directory: Path):
        shape, params = read_encoder(directory)
        self.dim = shape.dim
        most = min(PROBES[0], 1 << shape.probes.bit_length() - 1)
        self.images = tinted(params["inputs"][probe_order(shape.probes, most)].astype(np.float32))

    def __call__(self, checkpoint: Checkpoint) -> AnswerVector | None:
        """Runs a network; None where its file does not tell its operators.

        Raises:
          CheckpointError: see `answers`; or it answers all images alike.
        """
        graph = forward_graph(checkpoint)
        if graph is None:
            return None
        found = answers(graph, checkpoint, self.images)
        each = [answer_vector(logits, self.images[: len(logits)], self.dim) for logits in found.logits]
        total = np.sum([vector for vector in each if vector is not None], axis=0)
        length = float(np.linalg.norm(total))
        if length < SMALLEST:
            raise CheckpointError(checkpoint.path, "its answers do not depend on the image", "search by weights")
        return AnswerVector((total / length).astype(np.float32), graph_kind(graph), found.assumed)


@dataclass(frozen=True)
class Answers:
    """What a network answers.

    Attributes:
      logits: of each image, for each scale that pixels may have.
      assumed: what the file does not tell, e.g. `pixels: 0 to 255`.
    """

    logits: Float32[np.ndarray, "scales images outputs"]
    assumed: tuple[str, ...]


def answers(
    graph: ForwardGraph, checkpoint: Checkpoint, images: Float32[np.ndarray, "images height width channels"]
) -> Answers:
    """Runs a network on images.

    Args:
      graph: of the network.
      checkpoint: holds its weights.
      images: natural ones, from -1 to 1, the most telling first; as many of them are taken as `PROBES` and the work
        for each allow.

    Raises:
      CheckpointError: it does not take images or gives no list of answers for each, it cannot be run, or it takes too
        much memory or work.
    """
    graph = before_probabilities(graph)
    size, last, assumed = image_shape(graph, checkpoint)
    counts = [n for n in PROBES if n <= len(images)] or [len(images)]

    def feed(start: int, stop: int) -> Float32[np.ndarray, "part ..."]:
        """Images as the network takes them; the last stands for those that are missing in a graph of fixed batch."""
        part = fit_inputs(images[start:stop], size)
        part = np.concatenate([part, np.repeat(part[-1:], max((graph.batch or 0) - len(part), 0), 0)])
        return np.ascontiguousarray(part if last else np.moveaxis(part, 3, 1))

    first = graph.batch or 1
    scales = _scales(graph, checkpoint, feed(0, graph.batch or SEEN))

    def run_part(scale: str, start: int, stop: int, cost: Cost) -> Float32[np.ndarray, "part outputs"]:
        return _run(graph, checkpoint, _scaled(feed(start, stop), scale), cost)[: stop - start]

    cost = Cost(most_bytes=MOST_BYTES, most_work=int(first * MOST_WORK / counts[-1] / len(scales)))
    with threadpool_limits(1, "blas"):  # images in parallel take less time than threads that wait for one another
        run_part(scales[0], 0, min(first, counts[-1]), cost)
        count = next((n for n in counts if n * len(scales) * cost.work / first <= MOST_WORK), counts[-1])
        batch = graph.batch or int(np.clip(BATCH_BYTES // max(cost.peak, 1), 1, BATCH))
        parts = [(scale, start, min(start + batch, count)) for scale in scales for start in range(0, count, batch)]
        with ThreadPoolExecutor(min(os.cpu_count() or 1, WORKERS)) as pool:
            found = pool.map(lambda part: run_part(*part, cost=Cost(most_bytes=MOST_BYTES)), parts)
            logits = np.concatenate([*found]).reshape(len(scales), count, -1)
    return Answers(np.nan_to_num(logits), (*graph.assumed, *assumed, f"pixels: {' or '.join(scales)}"))


def _scales(graph: ForwardGraph, checkpoint: Checkpoint, images: np.ndarray) -> tuple[str, ...]:
    """The scale that is nearest to standardized where the first weights meet the pixels, if the graph scales them
    before; else all that are usual.

    What a batch norm keeps would tell more, but not in files of the same network that have it folded.
    """
    steps = needed_steps(graph)
    first = next((i for i, step in enumerate(steps) if step.op in WEIGHTED), len(steps))
    if first == len(steps) or not _scales_pixels(graph, steps[:first], steps[first].inputs[0]):
        return USUAL
    before = replace(graph, output=steps[first].inputs[0])

    def distance(scale: str) -> float:
        seen = run(before, checkpoint, _scaled(images, scale), Cost(most_bytes=MOST_BYTES)).astype(np.float64)
        return abs(seen.mean()) + abs(np.log(max(seen.std(), SMALLEST)))

    return (min(SCALES, key=distance),)


def _scales_pixels(graph: ForwardGraph, steps: Sequence[Step], end: str) -> bool:
    """Whether what leads from the input to a value before all weights changes the scale of the pixels."""
    reached, changes = {graph.input}, False
    for step in steps:
        if reached & set(step.inputs):
            reached |= set(step.outputs)
            changes |= step.op in SCALING
    return changes and end in reached


def _scaled(images: Float32[np.ndarray, "..."], scale: str) -> Float32[np.ndarray, "..."]:
    factor, offset = SCALES[scale]
    return images * np.float32(factor) + np.float32(offset)


def _run(graph: ForwardGraph, checkpoint: Checkpoint, images: np.ndarray, cost: Cost) -> np.ndarray:
    """Logits [images, outputs]."""
    found = run(graph, checkpoint, images, cost)
    lengths = [n for n in found.shape[1:] if n != 1]
    if found.ndim < 1 or len(found) != len(images) or len(lengths) > 1 or found.dtype != np.float32:
        shape = " x ".join(map(str, found.shape[1:]))
        raise CheckpointError(checkpoint.path, f"it does not return classes, but {shape} numbers", "search by weights")
    return found.reshape(len(found), -1)
