"""Tasks of a tree: half of the classes of an image set, the other half, merged classes, quarter turns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from wsrl.data import ImageSet

MOST_CLASSES = 10
GROUPS = 3  # of merged classes
TURNS = 4


@dataclass(frozen=True)
class Task:
    """What children are trained on.

    Attributes:
      name: of the image set and the rule.
      dataset: name of the image set.
      split: train, of the metric, or test.
      rule: how labels come about: `first`, `second`, `merged` or `turned`.
      sources: classes of the image set that its images are of.
      images: [n, size, size], pixels 0 to 255.
      labels: 0 to `classes` - 1.
      held_out: images that no child trains on.
      classes: how many.
    """

    name: str
    dataset: str
    split: str
    rule: str
    sources: tuple[int, ...]
    images: UInt8[np.ndarray, "n size size"]
    labels: Int64[np.ndarray, " n"]
    held_out: np.ndarray
    classes: int


def tasks_of(image_set: ImageSet, name: str, split: str, rules: Sequence[str], seed: int) -> list[Task]:
    """Makes the tasks of one image set.

    Args:
      image_set: the images.
      name: short name of the set.
      split: of the tasks.
      rules: `first` and `second` are halves of the classes in an order that `seed` draws, of 10 classes at most;
        `merged` joins all classes to three groups; `turned` asks by how many quarter turns an image was rotated.
        Sets of fewer than four classes have all of them as `first`, and no `second` nor `merged`.
      seed: of the draws.
    """
    order = np.random.default_rng([seed, image_set.classes, 52]).permutation(image_set.classes)
    few = image_set.classes < 4
    half = image_set.classes if few else (image_set.classes + 1) // 2
    found = []
    for rule in rules:
        if few and rule in ("second", "merged"):
            continue
        if rule == "merged":
            sources, label_of = order, {int(c): i % GROUPS for i, c in enumerate(order)}
        elif rule == "turned":
            sources, label_of = order, {}
        else:
            sources = (order[:half] if rule == "first" else order[half:])[:MOST_CLASSES]
            label_of = {int(c): i for i, c in enumerate(sources)}
        rows = np.flatnonzero(np.isin(image_set.y, sources))
        images, held_out = image_set.x[rows], image_set.held_out[rows]
        if rule == "turned":
            images = np.concatenate([np.rot90(images, turns, (1, 2)) for turns in range(TURNS)])
            labels = np.repeat(np.arange(TURNS), len(rows))
            held_out = np.tile(held_out, TURNS)
        else:
            labels = np.array([label_of[int(c)] for c in image_set.y[rows]])
        own = tuple(sorted(map(int, sources)))
        made = Task(f"{name}.{rule}", name, split, rule, own, images, labels, held_out, int(labels.max()) + 1)
        found.append(made)
    return found


def subset_tasks(image_set: ImageSet, name: str, count: int, classes: int, seed: int) -> list[Task]:
    """Makes tasks of random classes of one image set, of the rule and the split `subset`."""
    found = []
    for i in range(count):
        drawn = np.sort(np.random.default_rng([seed, i, 58]).permutation(image_set.classes)[:classes])
        rows = np.flatnonzero(np.isin(image_set.y, drawn))
        labels, held_out = np.searchsorted(drawn, image_set.y[rows]), image_set.held_out[rows]
        own = tuple(map(int, drawn))
        found.append(
            Task(f"{name}.subset{i:03d}", name, "subset", "subset", own, image_set.x[rows], labels, held_out, classes)
        )
    return found
