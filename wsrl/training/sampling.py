"""Draws training batches: tasks, a set of classes for each, and networks of every bucket for each.

A network restricted to some of its classes, or with some of them merged, is a network of another task. So
every draw of a class map makes a task for free. All networks of one draw get the same map, found by their
`class_order`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from wsrl.encoder.embed import Batches

PADDING = -1
FEWEST = 3  # classes that a draw keeps before merging


class Examples(NamedTuple):
    """What is known of the networks to train on.

    Attributes:
      task: what makes two networks positives.
      lineage: networks of one lineage are not compared.
      architecture: negatives of one architecture are hard.
      accuracy: on held-out data, 0 to 1.
      class_order: of each network the class of the task at each output neuron, or None where it is not known.
    """

    task: Int[np.ndarray, " n"]
    lineage: Int[np.ndarray, " n"]
    architecture: Int[np.ndarray, " n"]
    accuracy: Float[np.ndarray, " n"]
    class_order: Sequence[Sequence[int] | None]


class Targets(NamedTuple):
    """Of all networks of a step, bucket after bucket, padding included.

    Attributes:
      label: equal for positives, -1 for padding.
      lineage, architecture: as in `Examples`.
    """

    label: Int[np.ndarray, "*devices networks"]
    lineage: Int[np.ndarray, "*devices networks"]
    architecture: Int[np.ndarray, "*devices networks"]


def draw_class_map(
    classes: int, map_share: float, merge_share: float, rng: np.random.Generator
) -> Int[np.ndarray, " classes"]:
    """Draws the new class of each class, or -1 where it is left out.

    Args:
      classes: of the task.
      map_share: probability that the classes are not left as they are.
      merge_share: probability that, then, some of the classes that are kept are merged.
    """
    if classes <= FEWEST or rng.random() >= map_share:
        return np.arange(classes)
    kept = rng.choice(classes, rng.integers(FEWEST, classes + 1), replace=False)
    groups = len(kept)
    if rng.random() < merge_share:
        groups = int(rng.integers(2, len(kept)))
    # every group gets a class, the others fall at random
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, len(kept) - groups)])
    new = np.full(classes, -1)
    new[kept] = rng.permutation(group)
    return new


def class_map_array(
    new: Int[np.ndarray, " classes"], order: Sequence[int] | None, units: int
) -> Float[np.ndarray, "units units"]:
    """One at (output neuron, new class).

    Args:
      new: from `draw_class_map`.
      order: class of the task at each output neuron, or None where it is not known: then the classes stay as they are.
      units: output neurons, padding included.
    """
    of_unit = np.take(new, order) if order else np.arange(units)
    unit = np.flatnonzero(of_unit >= 0)
    class_map = np.zeros((units, units), np.float32)
    class_map[unit, of_unit[unit]] = 1.0
    return class_map


class Sampler:
    """Draws batches; the draw of a step depends on seed and step alone.

    Args:
      buckets: training networks only; members index `examples`.
      examples: of the whole collection.
      tasks: draws of (task, class map) a step.
      map_share, merge_share: see `draw_class_map`.
      devices: arrays of a step have a leading axis of this size.
      seed: of all draws.
    """

    def __init__(
        self,
        buckets: Sequence[Batches],
        examples: Examples,
        tasks: int,
        map_share: float,
        merge_share: float,
        devices: int,
        seed: int,
    ):
        self.buckets = buckets
        self.examples = examples
        self.tasks = tasks
        self.map_share = map_share
        self.merge_share = merge_share
        self.devices = devices
        self.seed = seed
        members = np.concatenate([bucket.members for bucket in buckets])
        self.names = np.unique(examples.task[members])
        self.classes = {int(task): 0 for task in self.names}
        for m in members:  # the order may be known of some networks of a task
            task = int(examples.task[m])
            self.classes[task] = max(self.classes[task], len(examples.class_order[m] or ()))
        self.places = [
            {task: np.flatnonzero(examples.task[bucket.members] == task) for task in self.names} for bucket in buckets
        ]

    def sample(self, step: int) -> tuple[tuple[tuple[Any, np.ndarray], ...], Targets]:
        """Draws a step: for each bucket (batch, class maps), and the targets of all; axes [devices, networks, ...].

        Class maps are [devices, networks, classes, classes] float32, one at (old class, new class).
        """
        rng = np.random.default_rng([self.seed, step])
        tasks = rng.choice(self.names, self.tasks)
        maps = [draw_class_map(self.classes[int(t)], self.map_share, self.merge_share, rng) for t in tasks]
        inputs, targets = [], []
        for bucket, places in zip(self.buckets, self.places, strict=True):
            drawn = self._draw(bucket, places, tasks, rng)
            devices = [self._batch(bucket, drawn[d :: self.devices], maps) for d in range(self.devices)]
            batches, class_maps, of_bucket = zip(*devices, strict=True)
            inputs.append((jax.tree.map(lambda *leaves: np.stack(leaves), *batches), np.stack(class_maps)))
            targets.append(Targets(*(np.stack(parts) for parts in zip(*of_bucket, strict=True))))
        return tuple(inputs), Targets(*(np.concatenate(parts, axis=1) for parts in zip(*targets, strict=True)))

    def _draw(self, bucket: Batches, places: dict, tasks: np.ndarray, rng: np.random.Generator) -> list:
        """(place in the bucket, index of the draw) of the networks of all devices, draws taking turns."""
        wanted = bucket.size * self.devices
        turns = rng.permutation(np.arange(wanted) % len(tasks))
        return [(int(rng.choice(places[tasks[i]])), int(i)) for i in turns if len(places[tasks[i]])]

    def _batch(self, bucket: Batches, chosen: list, maps: list[np.ndarray]) -> tuple[Any, np.ndarray, Targets]:
        size = bucket.size + 1
        target = Targets(np.full(size, PADDING, np.int32), *np.zeros((2, size), np.int32))
        class_map = np.zeros((size, bucket.classes, bucket.classes), np.float32)
        for n, (place, draw) in enumerate(chosen):
            member = int(bucket.members[place])
            target.label[n] = draw
            target.lineage[n] = self.examples.lineage[member]
            target.architecture[n] = self.examples.architecture[member]
            class_map[n] = class_map_array(maps[draw], self.examples.class_order[member], bucket.classes)
        places = [place for place, _ in chosen] or [0]  # a batch may be all padding, but not empty
        return bucket.batch(places), class_map, target
