"""The data sets that networks are fine-tuned on: whole other collections than those of the sources."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.transfer.sources import load_set
from wsrl.annotations import Config
from wsrl.data import ImageSet, resize
from wsrl.zoo.bank import ImageBank, image_bank
from wsrl.zoo.finetuning import Part, TaskData
from wsrl.zoo.tasks import Task

CLASSES = 10  # of a target at most; so many are drawn of more
SPLITS = ("validation", "test")
LABELS = (5, 10, 50)  # images a class that are labeled
POOL = 70  # images a class that the labeled ones are drawn from
HELD_OUT = 300  # images at most that accuracy is measured on
ASIDE = 0.2  # share of the labeled images of a class that proxies are not trained on


class Target(NamedTuple):
    """A data set.

    Attributes:
      name: of the set.
      split: one of `SPLITS`.
      by_hand: source that a person would take for it.
      classes: at most `CLASSES`.
    """

    name: str
    split: str
    by_hand: str
    classes: int


def load_targets(config: Config) -> tuple[list[Target], ImageBank]:
    """Loads all targets, and the images that they use: a pool to draw labeled ones from, and those held out.

    Raises:
      InputError: a set cannot be used.
    """
    sets, tasks, targets = [], [], []
    for split in SPLITS:
        for entry in config[f"{split}_targets"].split(","):
            name, _, by_hand = entry.partition("=")
            images = load_set(name, config.data_dir, config.image_size)
            rng = np.random.default_rng([config.seed, 22, len(targets)])
            chosen = np.sort(rng.permutation(images.classes)[:CLASSES])
            label_map = np.full(images.classes, -1)
            label_map[chosen] = np.arange(len(chosen))
            sets.append(images)
            tasks.append(Task(name, images.name, "identity", "drawn", tuple(label_map.tolist()), split))
            targets.append(Target(name, split, by_hand, len(chosen)))
    bank = image_bank(sets, tasks, HELD_OUT)
    for number, target in enumerate(targets):
        rows, labels = bank.train[target.name]
        own = _drawn(labels, POOL, np.random.default_rng([config.seed, 23, number]))
        bank.train[target.name] = rows[own], labels[own]
    return targets, bank


def draw_labeled(bank: ImageBank, target: str, count: int, seed: int) -> TaskData:
    """Draws labeled images, `count` a class or all that there are; of one seed, fewer are among the more.

    The validation part, which nothing uses here, is a single image.
    """
    rows, labels = bank.train[target]
    own = _drawn(labels, count, np.random.default_rng([seed, 24]))
    part = Part(rows[own], labels[own])
    return TaskData(part, Part(rows[:1], labels[:1]), Part(*bank.test[target]))


def _drawn(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Places of the first `count` images of each class in a random order."""
    order = rng.permutation(len(labels))
    chosen = [order[labels[order] == label][:count] for label in np.unique(labels)]
    return np.concatenate(chosen)


def as_examples(bank: ImageBank, target: Target, part: Part, size: int) -> ImageSet:
    """The labeled images as a user would give them to `wsrl recommend`, of an encoder's size, some held out."""
    x = np.stack([resize(image, size) for image in bank.images[part.rows]])
    aside = np.zeros(len(x), bool)
    for label in range(target.classes):
        own = np.flatnonzero(part.labels == label)
        aside[own[: max(1, round(ASIDE * len(own)))]] = True
    return ImageSet(target.name, x, np.asarray(part.labels, np.int64), target.classes, aside)


def of_split(targets: Sequence[Target], split: str) -> list[Target]:
    """The targets of one split."""
    return [target for target in targets if target.split == split]
