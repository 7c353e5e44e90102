"""Classification tasks: a data set, a transform of its images and a scheme of labels.

Every task has the same number of classes, so one architecture serves all of them and the shape of the
head says nothing about the task.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from wsrl.annotations import Config
from wsrl.data import ImageSet, load_image_set
from wsrl.errors import InputError

Images = UInt8[np.ndarray, "n size size"]

GEOMETRY: dict[str, Callable[[Images], Images]] = {
    "identity": lambda x: x,
    "rot90": lambda x: np.rot90(x, 1, (1, 2)),
    "rot180": lambda x: np.rot90(x, 2, (1, 2)),
    "rot270": lambda x: np.rot90(x, 3, (1, 2)),
    "transpose": lambda x: x.transpose(0, 2, 1),
}
INVERTED = "-inverted"  # suffix of the transforms that also invert the contrast
TRANSFORMS = tuple(name + suffix for suffix in ("", INVERTED) for name in GEOMETRY)


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        id: name of the task, `dataset.transform.labels`.
        dataset: name of the image set.
        transform: one of TRANSFORMS.
        labels: name of the label scheme.
        label_map: for each class of the data set its class in the task, or -1 where it is left out.
        split: train, validation or test.
    """

    id: str
    dataset: str
    transform: str
    labels: str
    label_map: tuple[int, ...]
    split: str


def transform_images(x: Images, transform: str) -> Images:
    """Apply a transform of TRANSFORMS to a batch of images."""
    x = GEOMETRY[transform.removesuffix(INVERTED)](x)
    return np.ascontiguousarray(255 - x if transform.endswith(INVERTED) else x)


def partition(label_map: Sequence[int]) -> tuple[int, ...]:
    """Rename the classes of a label map in order of appearance: equal for equal partitions."""
    names: dict[int, int] = {-1: -1}
    return tuple(names.setdefault(label, len(names) - 1) for label in label_map)


def _subset(classes: int, chosen: Sequence[int]) -> tuple[int, ...]:
    order = {source: label for label, source in enumerate(chosen)}
    return tuple(order.get(source, -1) for source in range(classes))


def named_schemes(classes: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Label maps of the schemes with a name, for a data set of `classes` classes."""
    k = num_classes
    schemes = {"low": _subset(classes, range(k))}
    if classes > k:
        schemes["high"] = _subset(classes, range(classes - k, classes))
    if classes >= 2 * k:
        schemes["even"] = _subset(classes, range(0, 2 * k, 2))
        schemes["odd"] = _subset(classes, range(1, 2 * k, 2))
        schemes["pairs"] = tuple(source // 2 if source < 2 * k else -1 for source in range(classes))
        schemes[f"mod{k}"] = tuple(source % k for source in range(classes))
    return schemes


def random_subset(classes: int, num_classes: int, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """Draw `num_classes` of the classes; returns the scheme's name and label map."""
    chosen = sorted(rng.choice(classes, num_classes, replace=False).tolist())
    return "subset-" + "-".join(map(str, chosen)), _subset(classes, chosen)


def random_merge(classes: int, num_classes: int, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """Merge classes, all or twice `num_classes` of them, into `num_classes` groups of equal size, nearly.

    Returns the scheme's name and label map. More classes a group make a task that small networks hardly learn.
    """
    group = np.arange(classes) % num_classes
    if classes > 2 * num_classes:
        group = np.where(np.arange(classes) < 2 * num_classes, group, -1)
    groups = partition(rng.permutation(group).tolist())
    if -1 in groups:
        merged = [[str(c) for c, g in enumerate(groups) if g == label] for label in range(num_classes)]
        return "merge-" + "-".join(".".join(group) for group in merged), groups
    return "merge-" + "".join(chr(ord("a") + group) for group in groups), groups


def load_tasks(config: Config, seed: int = 0) -> tuple[list[ImageSet], list[Task]]:
    """Load the image sets of a zoo and draw its tasks.

    Where `validation_datasets` or `test_datasets` are named, the tasks of that split are drawn from them, so that
    nothing of these sets is trained on; otherwise from `datasets`.

    Args:
        config: the section `zoo`.
        seed: of the held-out parts and of the tasks.

    Raises InputError where a set cannot be used, or stands in two splits.
    """
    names = {
        "train": config.datasets.split(","),
        "validation": [name for name in config.validation_datasets.split(",") if name],
        "test": [name for name in config.test_datasets.split(",") if name],
    }
    everything = [name for own in names.values() for name in own]
    repeated = [name for name in everything if everything.count(name) > 1]
    if repeated:
        raise InputError(repeated[0], "is named twice among the data sets of the zoo", "name it once")
    sets = {
        split: [load_image_set(name, config.data_dir, config.image_size, config.max_images, seed) for name in own]
        for split, own in names.items()
    }
    drawn = {"train": config.num_tasks, "validation": config.num_validation_tasks, "test": config.num_test_tasks}
    apart = {split: number for split, number in drawn.items() if split != "train" and sets[split]}
    num_test, num_validation = (0 if split in apart else drawn[split] for split in ("test", "validation"))
    num_inside = config.num_tasks - sum(apart.values())
    tasks = draw_tasks(sets["train"], num_inside, num_test, num_validation, seed, config.num_classes)
    for split, number in apart.items():
        tasks += _draw_tasks(
            sets[split], [split] * number, np.random.default_rng([seed, len(tasks)]), config.num_classes
        )
    return [images for own in sets.values() for images in own], tasks


def draw_tasks(
    image_sets: Sequence[ImageSet],
    num_tasks: int = 40,
    num_test: int = 10,
    num_validation: int = 4,
    seed: int = 0,
    num_classes: int = 5,
) -> list[Task]:
    """Draw `num_tasks` tasks, evenly over data sets, transforms and kinds of label scheme.

    No two tasks are equivalent: same data set, transform and partition of the classes. Test and validation
    tasks are drawn at random, the rest are train tasks. Raises InputError where a data set has too few
    classes or there are not enough distinct tasks.
    """
    if num_test + num_validation >= num_tasks:
        raise InputError("zoo.num_tasks", "no tasks left to train on", "raise it above test + validation")
    rng = np.random.default_rng(seed)
    splits = np.array(["train"] * num_tasks, dtype="<U10")
    order = rng.permutation(num_tasks)
    splits[order[:num_test]] = "test"
    splits[order[num_test : num_test + num_validation]] = "validation"
    return _draw_tasks(image_sets, splits.tolist(), rng, num_classes)


def _draw_tasks(
    image_sets: Sequence[ImageSet], splits: Sequence[str], rng: np.random.Generator, num_classes: int
) -> list[Task]:
    """Draw one task for each entry of `splits`, the image sets taking turns."""
    tasks: list[Task] = []
    for place, images in enumerate(image_sets):
        if images.classes < num_classes:
            reason = f"{images.classes} classes, fewer than the {num_classes} of a task"
            raise InputError(images.name, reason, "leave it out of zoo.datasets")
        for number in range(place, len(splits), len(image_sets)):
            tasks.append(_draw_task(images, tasks, number // len(image_sets), num_classes, splits[number], rng))
    return tasks


def _draw_task(
    images: ImageSet, taken: list[Task], turn: int, num_classes: int, split: str, rng: np.random.Generator
) -> Task:
    """Draw the task number `turn` of a data set, unlike all that are taken."""
    named = named_schemes(images.classes, num_classes)
    kinds = [*named]
    if images.classes > num_classes:
        kinds += ["subset"] * 2
    if images.classes >= 2 * num_classes:
        kinds += ["merge"] * 2
    known = {(task.transform, partition(task.label_map)) for task in taken if task.dataset == images.name}
    for attempt in range(1000):
        # Two strides that cover all transforms and all kinds before they repeat; a clash moves both on.
        transform = TRANSFORMS[(turn * 3 + attempt) % len(TRANSFORMS)]
        labels = kinds[(turn + attempt // len(TRANSFORMS)) % len(kinds)]
        if labels == "subset":
            labels, label_map = random_subset(images.classes, num_classes, rng)
        elif labels == "merge":
            labels, label_map = random_merge(images.classes, num_classes, rng)
        else:
            label_map = named[labels]
        if (transform, partition(label_map)) not in known:
            name = f"{images.name}.{transform}.{labels}"
            return Task(name, images.name, transform, labels, label_map, str(split))
    raise InputError("zoo.num_tasks", f"{images.name} has too few distinct tasks", "lower it or add data sets")
