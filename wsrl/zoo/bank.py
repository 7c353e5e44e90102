"""The images of all tasks in one array on the device, and what each run takes from it."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from wsrl.annotations import Config
from wsrl.data import ImageSet
from wsrl.errors import InputError
from wsrl.zoo.recipes import Run
from wsrl.zoo.tasks import Task, load_tasks, transform_images

EVALUATION_BATCH = 100  # held-out images are padded to a multiple of it


@dataclasses.dataclass(frozen=True)
class ImageBank:
    """The images of all tasks in one array, with each task's own rows and classes.

    `train` and `test` map a task's id to (rows of `images`, classes of the task).
    """

    images: UInt8[np.ndarray, "n h w"]
    train: dict[str, tuple[np.ndarray, np.ndarray]]
    test: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ZooImages:
    """What a zoo is trained on, loaded once.

    Attributes:
        sets, tasks: see `load_tasks`.
        test_images: held-out images a task, at most.
    """

    sets: list[ImageSet]
    tasks: list[Task]
    test_images: int

    @functools.cached_property
    def bank(self) -> ImageBank:
        """Of all tasks; made when it is first asked for."""
        return image_bank(self.sets, self.tasks, self.test_images)


def load_zoo_images(config: Config, seed: int = 0) -> ZooImages:
    """Load the image sets of a zoo and draw its tasks; arguments and errors are those of `load_tasks`."""
    return ZooImages(*load_tasks(config, seed), config.test_images)


def image_bank(image_sets: Sequence[ImageSet], tasks: Sequence[Task], test_images: int) -> ImageBank:
    """Transform the images that the tasks use; at most `test_images` held-out images a task."""
    sets = {images.name: images for images in image_sets}
    offsets: dict[tuple[str, str], int] = {}
    blocks, rows_so_far = [], 0
    parts: tuple[dict, dict] = {}, {}
    for task in tasks:
        images = sets[task.dataset]
        if (task.dataset, task.transform) not in offsets:
            offsets[task.dataset, task.transform] = rows_so_far
            blocks.append(transform_images(images.x, task.transform))
            rows_so_far += len(images.x)
        labels = np.array(task.label_map)[images.y]
        for part, side in zip(parts, (~images.held_out, images.held_out), strict=True):
            rows = np.flatnonzero(side & (labels >= 0))
            if not len(rows):
                raise InputError(task.dataset, f"no images for {task.id}", "raise zoo.max_images")
            part[task.id] = rows + offsets[task.dataset, task.transform], labels[rows]
    train, test = parts
    for task, (rows, labels) in test.items():
        chosen = np.random.default_rng(len(rows)).permutation(len(rows))[:test_images]  # sets may be sorted by class
        test[task] = rows[chosen], labels[chosen]
    return ImageBank(np.concatenate(blocks), train, test)


def draw_batches(
    run: Run, bank: ImageBank, steps: int, batch_size: int
) -> tuple[Int32[np.ndarray, "steps batch"], Int32[np.ndarray, "steps batch"]]:
    """Draw what a run trains on: rows of the bank and the output unit of each.

    The subset of the data, the label noise and the batches (with replacement) come from the run's seed.
    """
    rng = np.random.default_rng([run.seed, 1])
    rows, labels = bank.train[run.task]
    order = rng.permutation(len(rows))[: max(1, round(run.data_fraction * len(rows)))]
    rows, labels = rows[order], labels[order]
    classes = len(run.class_order)
    noisy = rng.random(len(rows)) < run.label_noise
    labels = np.where(noisy, labels + rng.integers(1, classes, len(rows)), labels) % classes
    drawn = rng.integers(0, len(rows), (steps, batch_size))
    return rows[drawn].astype(np.int32), output_units(run.class_order)[labels[drawn]].astype(np.int32)


def output_units(class_order: Sequence[int]) -> Int64[np.ndarray, " classes"]:
    """Output unit of each class of the task, from the class at each output unit."""
    return np.argsort(class_order)


def run_arrays(run: Run, bank: ImageBank, steps: int) -> dict[str, np.ndarray | np.generic]:
    """Hyper-parameters and held-out images of a run, arrays of the same shapes for all runs.

    `test_labels` are output units, -1 where `test_images` is padded.
    """
    rows, labels = bank.test[run.task]
    longest = max(len(known) for known, _ in bank.test.values())
    padding = (0, -len(rows) + -(-longest // EVALUATION_BATCH) * EVALUATION_BATCH)
    return {
        "seed": np.uint32(run.seed),
        "adaptive": np.float32(run.optimizer != "sgd"),
        "decoupled": np.float32(run.optimizer == "adamw"),
        "learning_rate": np.float32(run.learning_rate),
        "weight_decay": np.float32(run.weight_decay),
        "dropout": np.float32(run.dropout),
        "steps": np.float32(steps),
        "test_count": np.int32(len(rows)),
        "test_images": np.pad(rows, padding).astype(np.int32),
        "test_labels": np.pad(output_units(run.class_order)[labels], padding, constant_values=-1).astype(np.int32),
    }
