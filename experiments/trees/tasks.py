"""Tasks of a tree: half of the classes of a set, the other half, merged classes, and labels by a rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from experiments.trees.texts import TextSet
from wsrl.data import ImageSet

MOST_CLASSES = 10
GROUPS = 3  # of merged classes


@dataclass(frozen=True)
class Task:
    """What children are trained on.

    Attributes:
      name: of the set and the rule.
      dataset: name of the set of images or texts.
      split: train, of the metric, or test.
      rule: how labels come about: `first`, `second`, `merged`, or the name of a rule of the kind of tree.
      sources: classes of the set that its inputs are of.
      inputs: images [n, size, size] of pixels 0 to 255, or texts [n, tokens].
      labels: 0 to `classes` - 1.
      held_out: inputs that no child trains on.
      classes: how many.
    """

    name: str
    dataset: str
    split: str
    rule: str
    sources: tuple[int, ...]
    inputs: np.ndarray
    labels: Int64[np.ndarray, " n"]
    held_out: np.ndarray
    classes: int


def tasks_of(
    given: ImageSet | TextSet,
    name: str,
    split: str,
    rules: Sequence[str],
    ruled: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    seed: int,
) -> list[Task]:
    """Makes the tasks of one set.

    Args:
      given: the images or texts.
      name: short name of the set.
      split: of the tasks.
      rules: `first` and `second` are halves of the classes in an order that `seed` draws, of 10 classes at most;
        `merged` joins all classes to three groups; every other rule, such as `turned`, is what `ruled` makes.
        Sets of fewer than four classes have all of them as `first`, and no `second` nor `merged`.
      ruled: see `experiments.trees.layers.Architecture`.
      seed: of the draws.
    """
    order = np.random.default_rng([seed, given.classes, 52]).permutation(given.classes)
    few = given.classes < 4
    half = given.classes if few else (given.classes + 1) // 2
    found = []
    for rule in rules:
        if few and rule in ("second", "merged"):
            continue
        if rule == "merged":
            sources, label_of = order, {int(c): i % GROUPS for i, c in enumerate(order)}
        elif rule in ("first", "second"):
            sources = (order[:half] if rule == "first" else order[half:])[:MOST_CLASSES]
            label_of = {int(c): i for i, c in enumerate(sources)}
        else:
            sources, label_of = order, {}
        rows = np.flatnonzero(np.isin(given.y, sources))
        inputs, held_out = given.x[rows], given.held_out[rows]
        if label_of:
            labels = np.array([label_of[int(c)] for c in given.y[rows]])
        else:
            inputs, labels, places = ruled(inputs)
            held_out = held_out[places]
        own = tuple(sorted(map(int, sources)))
        made = Task(f"{name}.{rule}", name, split, rule, own, inputs, labels, held_out, int(labels.max()) + 1)
        found.append(made)
    return found


def subset_tasks(given: ImageSet | TextSet, name: str, count: int, classes: int, seed: int) -> list[Task]:
    """Makes tasks of random classes of one set, of the rule and the split `subset`."""
    found = []
    for i in range(count):
        drawn = np.sort(np.random.default_rng([seed, i, 58]).permutation(given.classes)[:classes])
        rows = np.flatnonzero(np.isin(given.y, drawn))
        labels, held_out = np.searchsorted(drawn, given.y[rows]), given.held_out[rows]
        own = tuple(map(int, drawn))
        found.append(
            Task(f"{name}.subset{i:03d}", name, "subset", "subset", own, given.x[rows], labels, held_out, classes)
        )
    return found
