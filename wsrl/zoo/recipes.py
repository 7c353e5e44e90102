"""Which models a zoo holds: the runs, each with its task, architecture and hyper-parameters."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from wsrl.errors import InputError
from wsrl.zoo.models import FAMILIES
from wsrl.zoo.tasks import Task

Config = Any  # the section `zoo` of an ml_collections.ConfigDict, whose fields have no static types

OPTIMIZERS = ("sgd", "adam", "adamw")  # sgd with momentum 0.9
ADAPTIVE = ("adam", "adamw")
LEARNING_RATES = {"sgd": (0.03, 0.2), "adam": (2e-3, 1e-2), "adamw": (2e-3, 1e-2)}
WEIGHT_DECAYS = {"sgd": (1e-5, 1e-3), "adam": (1e-6, 1e-4), "adamw": (1e-3, 1e-1)}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        id: name of the run.
        task: id of the task.
        family, variant: architecture, an index into models.FAMILIES[family].
        split: train, validation or test.
        seen: the task is a train task (so a test run with `seen` is a fresh model of a known task).
        seed: of the initial weights, batches and dropout.
        parent: id of the run whose final weights this one starts from, or None.
        lineage: id of the run at the root of the parents.
        optimizer: one of OPTIMIZERS.
        learning_rate: the highest of the schedule.
        weight_decay: added to the gradient by sgd and adam, decoupled in adamw.
        init_scale: factor on the initial kernels.
        dropout: rate before the head.
        data_fraction: share of the training images that the run sees.
        label_noise: share of those whose class is replaced by another.
        class_order: class of the task at each output unit.
    """

    id: str
    task: str
    family: str
    variant: int
    split: str
    seen: bool
    seed: int
    parent: str | None
    lineage: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    init_scale: float
    dropout: float
    data_fraction: float
    label_noise: float
    class_order: tuple[int, ...]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _hyperparameters(rng: np.random.Generator, num_classes: int, family: str) -> dict:
    # transformers hardly learn by plain gradient descent in a few hundred steps
    optimizer = str(rng.choice(ADAPTIVE if family == "vit" else OPTIMIZERS))
    return {
        "seed": int(rng.integers(2**31)),
        "optimizer": optimizer,
        "learning_rate": _log_uniform(rng, *LEARNING_RATES[optimizer]),
        "weight_decay": _log_uniform(rng, *WEIGHT_DECAYS[optimizer]),
        "init_scale": _log_uniform(rng, 0.7, 1.6),
        "dropout": float(rng.choice([0.0, rng.uniform(0.05, 0.3)])),
        "data_fraction": float(rng.choice([1.0, 0.5, 0.25], p=[0.6, 0.25, 0.15])),
        "label_noise": float(rng.choice([0.0, rng.uniform(0.01, 0.1)], p=[0.75, 0.25])),
        "class_order": tuple(rng.permutation(num_classes).tolist()),
    }


def draw_runs(config: Config, tasks: Sequence[Task], seed: int = 0) -> list[Run]:
    """Draw all runs of a zoo, parents before children.

    Args:
        config: the section `zoo`, with families, num_classes, num_seen_tasks, runs_train, runs_validation,
            runs_test, runs_seen (each a number of runs for a task and family) and num_children.
        tasks: the tasks with their splits.
        seed: fixes everything.

    A family's variants take turns, so that they have equally many runs. Raises InputError for a family
    that does not exist.
    """
    families = config.families.split(",")
    for family in families:
        if family not in FAMILIES:
            raise InputError("zoo.families", f"no family {family}", f"choose from {', '.join(FAMILIES)}")
    rng = np.random.default_rng([seed, 1])
    of_split = {split: [task for task in tasks if task.split == split] for split in ("train", "validation", "test")}
    num_seen = min(config.num_seen_tasks, len(of_split["train"]))
    seen = [of_split["train"][i] for i in rng.permutation(len(of_split["train"]))[:num_seen]]
    groups = [
        (of_split["train"], "train", True, config.runs_train),
        (of_split["validation"], "validation", False, config.runs_validation),
        (of_split["test"], "test", False, config.runs_test),
        (seen, "test", True, config.runs_seen),
    ]
    turns = {family: itertools.cycle(rng.permutation(len(FAMILIES[family])).tolist()) for family in families}
    runs: list[Run] = []
    for group, split, is_seen, repeats in groups:
        names = [family for family in families for _ in range(repeats)]
        for task, family in itertools.product(group, names):
            name = f"{family}-{len(runs):05d}"
            runs.append(
                Run(
                    id=name,
                    task=task.id,
                    family=family,
                    variant=next(turns[family]),
                    split=split,
                    seen=is_seen,
                    parent=None,
                    lineage=name,
                    **_hyperparameters(rng, config.num_classes, family),
                )
            )
    return runs + _draw_children(runs, config.num_children, rng)


def _draw_children(runs: Sequence[Run], number: int, rng: np.random.Generator) -> list[Run]:
    """Draw fine-tuned runs: another task of the parent's group, so that no lineage is on two splits."""
    tasks_of: dict[tuple[str, bool], list[str]] = {}
    for run in runs:
        known = tasks_of.setdefault((run.split, run.seen), [])
        if run.task not in known:
            known.append(run.task)
    possible = [run for run in runs if len(tasks_of[run.split, run.seen]) > 1]
    children = []
    for i in rng.permutation(len(possible))[:number]:
        parent = possible[i]
        others = [task for task in tasks_of[parent.split, parent.seen] if task != parent.task]
        drawn = _hyperparameters(rng, len(parent.class_order), parent.family)
        children.append(
            dataclasses.replace(
                parent,
                id=f"{parent.family}-{len(runs) + len(children):05d}",
                task=others[rng.integers(len(others))],
                parent=parent.id,
                seed=drawn["seed"],
                optimizer=drawn["optimizer"],
                learning_rate=drawn["learning_rate"],
                weight_decay=drawn["weight_decay"],
                dropout=drawn["dropout"],
                data_fraction=drawn["data_fraction"],
                label_noise=drawn["label_noise"],
                class_order=drawn["class_order"],
            )
        )
    return children
