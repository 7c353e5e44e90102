"""Draws training batches: tasks, class subsets of them, and networks of every bucket for each.

A network restricted to some of its classes is a network of another task, so every draw of a class subset makes a
task for free. All networks of one draw are restricted to the same classes, found by their `class_order`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jraph
import numpy as np
from jaxtyping import Float, Int

from wsrl.graph.batching import Batch
from wsrl.graph.collection import Bucket

PADDING = -1
SMALLEST_SUBSET = 3  # classes; pairs of classes are too alike across tasks


class Examples(NamedTuple):
    """What is known of the networks to train on.

    Attributes:
      task: [n] int, what makes two networks positives.
      lineage: [n] int; networks of one lineage are not compared.
      accuracy: [n] float32, on held-out data.
      class_order: of each network the class of the task at each output neuron, or None where it is not known.
    """

    task: Int[np.ndarray, "n"]
    lineage: Int[np.ndarray, "n"]
    accuracy: Float[np.ndarray, "n"]
    class_order: Sequence[Sequence[int] | None]


class Targets(NamedTuple):
    """Of all networks of a batch, bucket after bucket, padding included: label (-1 for padding), lineage, accuracy."""

    label: Int[np.ndarray, "*devices networks"]
    lineage: Int[np.ndarray, "*devices networks"]
    accuracy: Float[np.ndarray, "*devices networks"]


def restrict_classes(graph: jraph.GraphsTuple, kept: np.ndarray) -> jraph.GraphsTuple:
    """Masks all output neurons but those in `kept` (their places in the layer)."""
    mask = graph.nodes["mask"].copy()
    rows = graph.nodes["output"] == 1
    outputs = np.zeros(mask[rows].size, np.float32)
    outputs[kept] = 1.0
    mask[rows] *= outputs.reshape(mask[rows].shape)
    return graph._replace(nodes={**graph.nodes, "mask": mask})


class Sampler:
    """Draws batches; the draw of a step depends on seed and step alone.

    Args:
      buckets: training networks only; members index `examples`.
      examples: of the whole collection.
      tasks: draws of (task, class subset) a batch.
      subset_share: share of the draws that are restricted to a random subset of the classes.
      devices: batches are stacked along a leading axis of this size.
    """

    def __init__(
        self, buckets: Sequence[Bucket], examples: Examples, tasks: int, subset_share: float, devices: int, seed: int
    ):
        self.buckets = buckets
        self.examples = examples
        self.tasks = tasks
        self.subset_share = subset_share
        self.devices = devices
        self.seed = seed
        members = np.concatenate([bucket.members for bucket in buckets])
        self.names = np.unique(examples.task[members])
        self.places = [
            {task: np.flatnonzero(examples.task[bucket.members] == task) for task in self.names} for bucket in buckets
        ]

    def sample(self, step: int) -> tuple[tuple[Batch, ...], Targets]:
        """Draws the batch of a step: one Batch a bucket and the targets of all, each [devices, ...]."""
        rng = np.random.default_rng([self.seed, step])
        tasks = rng.choice(self.names, self.tasks, replace=self.tasks > len(self.names))
        subsets = [self._subset(task, rng) for task in tasks]
        batches, targets = [], []
        for bucket, places in zip(self.buckets, self.places, strict=True):
            drawn = self._draw(bucket, places, tasks, rng)
            for device in range(self.devices):
                chosen = drawn[device :: self.devices]
                fitting = bucket.fits([place for place, _ in chosen])
                batch, target = self._batch(bucket, chosen[: len(fitting)], subsets)
                batches.append(batch)
                targets.append(target)
        stacked = tuple(
            jax.tree.map(lambda *leaves: np.stack(leaves), *batches[i : i + self.devices])
            for i in range(0, len(batches), self.devices)
        )
        of_device = [targets[device :: self.devices] for device in range(self.devices)]
        joined = [Targets(*(np.concatenate(parts) for parts in zip(*rows, strict=True))) for rows in of_device]
        return stacked, Targets(*(np.stack(parts) for parts in zip(*joined, strict=True)))

    def _subset(self, task: int, rng: np.random.Generator) -> np.ndarray | None:
        orders = [o for o, t in zip(self.examples.class_order, self.examples.task, strict=True) if t == task and o]
        if not orders or len(orders[0]) <= SMALLEST_SUBSET or rng.random() >= self.subset_share:
            return None
        classes = np.sort(np.asarray(orders[0]))
        return rng.choice(classes, rng.integers(SMALLEST_SUBSET, len(classes)), replace=False)

    def _draw(self, bucket: Bucket, places: dict, tasks: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(place in the bucket, index of the task's draw) of the networks of all devices."""
        wanted = bucket.plan.graphs * self.devices
        drawn: list[tuple[int, int]] = []
        for i in rng.permutation(np.arange(wanted) % len(tasks)):
            free = places[tasks[i]]
            if len(free):
                drawn.append((int(rng.choice(free)), int(i)))
        return drawn

    def _batch(self, bucket: Bucket, chosen: list[tuple[int, int]], subsets: list) -> tuple[Batch, Targets]:
        graphs = []
        size = bucket.plan.graphs + 1
        target = Targets(np.full(size, PADDING, np.int32), np.zeros(size, np.int32), np.zeros(size, np.float32))
        for n, (place, draw) in enumerate(chosen):
            member = bucket.members[place]
            graph, order = bucket.graphs[place], self.examples.class_order[member]
            if subsets[draw] is not None and order:
                graph = restrict_classes(graph, np.flatnonzero(np.isin(order, subsets[draw])))
            graphs.append(graph)
            target.label[n] = draw
            target.lineage[n] = self.examples.lineage[member]
            target.accuracy[n] = self.examples.accuracy[member]
        return bucket.make(graphs or [bucket.graphs[0]]), target  # a batch may be all padding, but not empty
