"""The table of the transfer experiment: what each start gives on the targets of a split, and what finding it costs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.transfer.fine_tuning import RECORDED
from experiments.transfer.measured import DRAWS, Cell, key_of
from experiments.transfer.starts import Pick, Rule, pick_starts, value_of
from experiments.transfer.targets import LABELS, Target
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.report.tables import Row
from wsrl.zoo.manifest import Record

SHOWN = 10  # labeled images a class at which starts are compared
RANDOM, SCRATCH, LARGEST, LOGME = "random weights", "scratch", "source of most images", "LogME of all"
HINDSIGHT = "best in hindsight"
TITLE = "Fine-tuning on targets of other sources, by where it starts"
NOTE = (
    "{targets} {split} targets, of whole other collections than the {sources} sources, pick among {models} networks of "
    "two architectures, after a tenth of their training and after all of it. `head` is the accuracy of a head fitted "
    "to {labels} labeled images a class by ridge regression, `class means` that of the nearest class mean, `tuned` "
    "that of all weights after {steps} steps from the fitted head. Batch normalization gets the statistics of a few "
    "unlabeled images of the target, for every start alike. Gains are of the fitted head at {shown} images a class. "
    "Labels are those a class with which the head is as accurate as on random weights with {most}, of {least} to "
    "{most}; steps those to the accuracy at which training from scratch ends. The search's seconds are CPU time, "
    "medians over targets, embedding of the gallery left out for the vectors as reading of the files is for LogME. "
    "Rules were chosen on {validation} other targets. Brackets: 95 % bootstrap intervals over targets and {draws} "
    "draws of labels."
)

Values = dict[str, Float[np.ndarray, "draws targets"]]


class Results(NamedTuple):
    """What was measured.

    Attributes:
      cells: of each target, by key.
      curves: accuracies at `RECORDED` steps, by target, labeled images a class, and start.
      records: of the gallery.
      rules: further ways to choose, by name.
      architecture: of random weights, as validation targets prefer.
    """

    cells: Mapping[str, Mapping[str, Cell]]
    curves: Mapping[str, Mapping[int, Mapping[str, Sequence[float]]]]
    records: Sequence[Record]
    rules: Mapping[str, Rule]
    architecture: str


def picks_of(results: Results, target: Target, count: int, draw: int) -> dict[str, Pick]:
    """Picks of one target by name."""
    key = key_of(count, draw)
    return pick_starts(results.cells[target.name], key, target, results.records, results.rules)


def values_of(results: Results, targets: Sequence[Target], count: int, what: str) -> Values:
    """`head` or `few_shot` of each start, random weights among them, at some labeled images a class."""
    found: dict[str, np.ndarray] = {}
    for column, target in enumerate(targets):
        for draw in range(DRAWS):
            cell = results.cells[target.name][key_of(count, draw)]
            own = {n: value_of(cell, pick, what) for n, pick in picks_of(results, target, count, draw).items()}
            own[RANDOM] = cell["random"][results.architecture][what]
            for name, value in own.items():
                found.setdefault(name, np.zeros((DRAWS, len(targets))))[draw, column] = value
    return found


def seconds_of(results: Results, targets: Sequence[Target]) -> dict[str, float]:
    """Median CPU seconds of each search at `SHOWN` labeled images a class."""
    found: dict[str, list[float]] = {}
    for target in targets:
        for draw in range(DRAWS):
            for name, pick in picks_of(results, target, SHOWN, draw).items():
                found.setdefault(name, []).append(pick.seconds)
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


def reached(at: Sequence[float], values: Sequence[float], level: float) -> float:
    """Where values that are known at some places reach a level, interpolated; the last place where they never do."""
    above = np.flatnonzero(np.asarray(values) >= level)
    if not len(above):
        return float(at[-1])
    i = int(above[0])
    if i == 0:
        return float(at[0])
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def table_rows(results: Results, targets: Sequence[Target], seed: int) -> list[Row]:
    """A row for each start."""
    heads = {count: values_of(results, targets, count, "head") for count in LABELS}
    means = values_of(results, targets, SHOWN, "few_shot")
    seconds = seconds_of(results, targets)
    clusters = np.arange(len(targets))
    rows: list[Row] = []
    for name in [*heads[SHOWN], SCRATCH]:
        row: dict[str, Any] = {"start": name}
        if name in heads[SHOWN]:
            scores = {f"head, {count} a class": heads[count][name] for count in LABELS}
            scores[f"class means, {SHOWN} a class"] = means[name]
            scores["gain over random weights"] = heads[SHOWN][name] - heads[SHOWN][RANDOM]
            scores["gain over the largest source"] = heads[SHOWN][name] - heads[SHOWN][LARGEST]
            scores["labels a class"] = _labels(heads, name)
            row |= cluster_bootstrap(scores, clusters, seed=seed)
        row |= _tuned(results, targets, name, seed)
        if seconds.get(name) and name != HINDSIGHT:
            row["search, CPU seconds"] = seconds[name]
            row["cost, LogME = 1"] = seconds[name] / seconds[LOGME]
        rows.append(row)
    return rows


def _labels(heads: Mapping[int, Values], name: str) -> Float[np.ndarray, "draws targets"]:
    """Labeled images a class with which a start is as good as random weights with the most."""
    level = heads[LABELS[-1]][RANDOM].mean(0)
    curves = np.stack([heads[count][name] for count in LABELS], -1)
    return np.array([[reached(LABELS, curve, goal) for curve, goal in zip(o, level, strict=True)] for o in curves])


def _tuned(results: Results, targets: Sequence[Target], name: str, seed: int) -> Row:
    """Accuracies after full fine-tuning, and steps to the accuracy at which scratch ends, where they were measured."""
    scores: dict[str, np.ndarray] = {}
    for count in LABELS:
        curves = [results.curves.get(target.name, {}).get(count, {}) for target in targets]
        if all(name in own and SCRATCH in own for own in curves):
            scores[f"tuned, {count} a class"] = np.array([[own[name][-1] for own in curves]])
            if count == SHOWN:
                steps = [reached(RECORDED, own[name], own[SCRATCH][-1]) for own in curves]
                scores["steps to scratch's end"] = np.array([steps])
    return cluster_bootstrap(scores, np.arange(len(targets)), seed=seed) if scores else {}


def table_note(results: Results, targets: Sequence[Target], validation: int) -> str:
    """What the table's figures are."""
    return NOTE.format(
        targets=len(targets),
        split=targets[0].split,
        sources=len({record.dataset for record in results.records}),
        models=len(results.records),
        labels=", ".join(map(str, LABELS)),
        steps=RECORDED[-1],
        shown=SHOWN,
        least=LABELS[0],
        most=LABELS[-1],
        validation=validation,
        draws=DRAWS,
    )
