"""Which models a zoo holds: the runs, each with its task, architecture and hyper-parameters."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from wsrl.errors import InputError
from wsrl.zoo.families import CATALOGUES, Family
from wsrl.zoo.models import Classifier
from wsrl.zoo.tasks import Task

Config = Any  # the section `zoo` of an ml_collections.ConfigDict, whose fields have no static types

OPTIMIZERS = ("sgd", "adam", "adamw")  # sgd with momentum 0.9
ADAPTIVE = ("adam", "adamw")
ADAPTIVE_FAMILIES = ("vit", "sequence_transformer", "rnn")


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Where the hyper-parameters of runs are drawn from; pairs are least and most.

    Attributes:
        learning_rates, weight_decays: of each optimizer, log-uniform.
        init_scale: log-uniform.
        dropout: of every second run; the others have none.
        data_fractions: shares of the training images and their probabilities.
        label_noise: of every fourth run; the others have none.
    """

    learning_rates: dict[str, tuple[float, float]]
    weight_decays: dict[str, tuple[float, float]]
    init_scale: tuple[float, float]
    dropout: tuple[float, float]
    data_fractions: dict[float, float]
    label_noise: tuple[float, float]


RANGES = {
    "sound": Ranges(
        learning_rates={"sgd": (0.03, 0.2), "adam": (2e-3, 1e-2), "adamw": (2e-3, 1e-2)},
        weight_decays={"sgd": (1e-5, 1e-3), "adam": (1e-6, 1e-4), "adamw": (1e-3, 1e-1)},
        init_scale=(0.7, 1.6),
        dropout=(0.05, 0.3),
        data_fractions={1.0: 0.6, 0.5: 0.25, 0.25: 0.15},
        label_noise=(0.01, 0.1),
    ),
    # As wide as in the zoo of Unterthiner et al. (2020), where accuracy is to be predicted: many runs hardly learn.
    "broad": Ranges(
        learning_rates={"sgd": (5e-4, 0.2), "adam": (1e-4, 5e-2), "adamw": (1e-4, 5e-2)},
        weight_decays={"sgd": (1e-8, 1e-2), "adam": (1e-8, 1e-2), "adamw": (1e-4, 1e-1)},
        init_scale=(0.1, 3.0),
        dropout=(0.05, 0.7),
        data_fractions={1.0: 0.25, 0.5: 0.25, 0.25: 0.25, 0.1: 0.25},
        label_noise=(0.01, 0.1),
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        id: name of the run.
        task: id of the task.
        catalogue, family, variant: architecture, an index into the family's variants.
        split: train, validation or test.
        seen: the task is a train task (so a test run with `seen` is a fresh model of a known task).
        seed: of the initial weights, batches and dropout.
        parent: id of the run whose final weights this one starts from, or None.
        teacher: the run whose final predictions are this one's labels, or None.
        lineage: id of the run at the root of the parents and teachers.
        optimizer: one of OPTIMIZERS.
        learning_rate: the highest of the schedule.
        weight_decay: added to the gradient by sgd and adam, decoupled in adamw.
        init_scale: factor on the initial kernels.
        dropout: rate before the head.
        data_fraction: share of the training images that the run sees.
        label_noise: share of those whose class is replaced by another.
        class_order: class of the task at each output unit.
        stretch: how many times the zoo's steps it is trained for.
    """

    id: str
    task: str
    catalogue: str
    family: str
    variant: int
    split: str
    seen: bool
    seed: int
    parent: str | None
    teacher: "Run | None"
    lineage: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    init_scale: float
    dropout: float
    data_fraction: float
    label_noise: float
    class_order: tuple[int, ...]
    stretch: int = 1

    @property
    def model(self) -> Classifier:
        """The architecture, with an output neuron for each class."""
        variant = CATALOGUES[self.catalogue][self.family].variants[self.variant]
        return variant.clone(num_classes=len(self.class_order))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _hyperparameters(rng: np.random.Generator, ranges: Ranges, num_classes: int, family: str) -> dict:
    # transformers and recurrent networks hardly learn by plain gradient descent in a few hundred steps
    optimizer = str(rng.choice(ADAPTIVE if family in ADAPTIVE_FAMILIES else OPTIMIZERS))
    return {
        "seed": int(rng.integers(2**31)),
        "optimizer": optimizer,
        "learning_rate": _log_uniform(rng, *ranges.learning_rates[optimizer]),
        "weight_decay": _log_uniform(rng, *ranges.weight_decays[optimizer]),
        "init_scale": _log_uniform(rng, *ranges.init_scale),
        "dropout": float(rng.choice([0.0, rng.uniform(*ranges.dropout)])),
        "data_fraction": float(rng.choice(list(ranges.data_fractions), p=list(ranges.data_fractions.values()))),
        "label_noise": float(rng.choice([0.0, rng.uniform(*ranges.label_noise)], p=[0.75, 0.25])),
        "class_order": tuple(rng.permutation(num_classes).tolist()),
    }


def _families(config: Config) -> dict[str, list[str]]:
    """Names of the families of each split. Raises InputError for a catalogue or family that does not exist."""
    if config.catalogue not in CATALOGUES:
        reason = f"no catalogue {config.catalogue!r}"
        raise InputError("zoo.catalogue", reason, f"choose from {', '.join(CATALOGUES)}")
    known = CATALOGUES[config.catalogue]
    found = {}
    for field, text in (("families", config.families), ("test_families", config.test_families or config.families)):
        found[field] = text.split(",")
        for family in found[field]:
            if family not in known:
                raise InputError(f"zoo.{field}", f"no family {family}", f"choose from {', '.join(known)}")
    return {"train": found["families"], "validation": found["families"], "test": found["test_families"]}


class _Turns:
    """Deals the variants of each family in turn, so that they have equally many runs."""

    def __init__(self, families: dict[str, Family], rng: np.random.Generator):
        self._families = families
        self._places = {
            (name, part): itertools.cycle(rng.permutation(len(part)).tolist())
            for name, family in families.items()
            for part in dict.fromkeys((family.train, family.test))
        }

    def next(self, split: str, name: str) -> int:
        """The next variant for a run of a split, an index into the family's variants."""
        family = self._families[name]
        part = family.test if split == "test" else family.train
        return family.variants.index(part[next(self._places[name, part])])


def draw_runs(config: Config, tasks: Sequence[Task], seed: int = 0) -> list[Run]:
    """Draw all runs of a zoo, parents before children, teachers before distilled runs.

    Args:
        config: the section `zoo`, with catalogue, families, test_families, recipes (a key of `RANGES`), num_classes,
            num_seen_tasks, runs_train, runs_validation, runs_test, runs_seen (each a number of runs for a task and
            family), stretch and stretched (how many times the steps that share of the runs without a parent or teacher
            is trained for), num_children and num_distilled.
        tasks: the tasks with their splits.
        seed: fixes everything.

    Train and validation runs have the train variants of `families`, test runs the test variants of `test_families`, or
    of `families` where that is empty. Variants take turns, so that they have equally many runs. Raises InputError for
    a catalogue, family or recipes that do not exist, or for distilled runs with a single family.
    """
    families = _families(config)
    if config.recipes not in RANGES:
        raise InputError("zoo.recipes", f"no recipes {config.recipes!r}", f"choose from {', '.join(RANGES)}")
    ranges = RANGES[config.recipes]
    rng = np.random.default_rng([seed, 1])
    of_split = {split: [task for task in tasks if task.split == split] for split in families}
    num_seen = min(config.num_seen_tasks, len(of_split["train"]))
    seen = [of_split["train"][i] for i in rng.permutation(len(of_split["train"]))[:num_seen]]
    groups: list[tuple[list[Task], str, bool, int]] = [
        (of_split["train"], "train", True, config.runs_train),
        (of_split["validation"], "validation", False, config.runs_validation),
        (of_split["test"], "test", False, config.runs_test),
        (seen, "test", True, config.runs_seen),
    ]
    names = dict.fromkeys(itertools.chain(*families.values()))
    turns = _Turns({name: CATALOGUES[config.catalogue][name] for name in names}, rng)
    runs: list[Run] = []
    for group, split, is_seen, repeats in groups:
        repeated = [family for family in families[split] for _ in range(repeats)]
        for task, family in itertools.product(group, repeated):
            name = f"{family}-{len(runs):05d}"
            runs.append(
                Run(
                    id=name,
                    task=task.id,
                    catalogue=config.catalogue,
                    family=family,
                    variant=turns.next(split, family),
                    split=split,
                    seen=is_seen,
                    parent=None,
                    teacher=None,
                    lineage=name,
                    **_hyperparameters(rng, ranges, config.num_classes, family),
                )
            )
    chosen = np.random.default_rng([seed, 8]).random(len(runs)) < config.stretched
    runs = [
        dataclasses.replace(run, stretch=config.stretch if own else 1) for run, own in zip(runs, chosen, strict=True)
    ]
    runs += _draw_children(runs, config.num_children, ranges, rng)
    return runs + _draw_distilled(runs, config.num_distilled, families, ranges, turns, rng)


def _draw_children(runs: Sequence[Run], number: int, ranges: Ranges, rng: np.random.Generator) -> list[Run]:
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
        drawn = _hyperparameters(rng, ranges, len(parent.class_order), parent.family)
        children.append(
            dataclasses.replace(
                parent,
                id=f"{parent.family}-{len(runs) + len(children):05d}",
                task=others[rng.integers(len(others))],
                parent=parent.id,
                seed=drawn["seed"],
                optimizer=drawn["optimizer"],
                stretch=1,
                learning_rate=drawn["learning_rate"],
                weight_decay=drawn["weight_decay"],
                dropout=drawn["dropout"],
                data_fraction=drawn["data_fraction"],
                label_noise=drawn["label_noise"],
                class_order=drawn["class_order"],
            )
        )
    return children


def _draw_distilled(
    runs: Sequence[Run],
    number: int,
    families: dict[str, list[str]],
    ranges: Ranges,
    turns: _Turns,
    rng: np.random.Generator,
) -> list[Run]:
    """Draw runs of another family whose labels are a teacher's predictions for its own task."""
    distilled = []
    for i in rng.permutation(len(runs))[:number]:
        teacher = runs[i]
        others = [family for family in families[teacher.split] if family != teacher.family]
        if not others:
            raise InputError("zoo.num_distilled", "needs a second family", "name more families or set it to 0")
        family = others[rng.integers(len(others))]
        drawn = _hyperparameters(rng, ranges, len(teacher.class_order), family)
        distilled.append(
            dataclasses.replace(
                teacher,
                **drawn
                | {
                    "id": f"{family}-{len(runs) + len(distilled):05d}",
                    "family": family,
                    "variant": turns.next(teacher.split, family),
                    "parent": None,
                    "stretch": 1,
                    "teacher": teacher,
                    "label_noise": 0.0,  # the teacher's mistakes are the noise
                    "class_order": teacher.class_order,
                },
            )
        )
    return distilled
