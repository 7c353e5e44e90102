"""All scores of all methods, and their file."""

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from wsrl.evaluation.clustering import PartitionScores, clustering_scores
from wsrl.evaluation.hubness import hubness
from wsrl.evaluation.interval import Interval
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import GalleryScores, retrieval_scores
from wsrl.files import write_atomically
from wsrl.search.query_expansion import NEIGHBORS
from wsrl.zoo.manifest import Record

HALVES = ("seen", "unseen")
FORMS = ("retrieval", "retrieval_neighborhoods", "retrieval_shared_order")
Methods = Mapping[str, Sequence[Float[np.ndarray, "n _"]]]
Retrieval = dict[str, dict[str, dict[str, GalleryScores]]]  # of each method, on each half, in each gallery


@dataclass(frozen=True)
class Counts:
    """How many models were scored, and of how many tasks, architectures, training runs and lineages."""

    models: int
    tasks: int
    architectures: int
    runs: int
    lineages: int


@dataclass
class Results:
    """What a run found out; "seen" are models of tasks that encoders were trained on, "unseen" those of other tasks.

    Attributes:
      retrieval: of each method, on each half, in each gallery.
      retrieval_neighborhoods: the same by `wsrl.search.query_expansion`.
      retrieval_shared_order: the same where the models of one data set share the order of their classes; empty where
        that was not measured.
      clustering: of each method, on each half, scores of the partitions "task" and "architecture".
      hubness: of each method, on each half.
      counts: of all models that were scored.
      of_half: of those of each half.
      accuracy_tau: Kendall's tau of predicted and measured accuracy.
      invariance_error: largest relative change of an embedding under exact symmetries of the weights.
      facts: what else a run tells, such as its number of models.
      seconds: of each stage of the run.
    """

    retrieval: Retrieval
    retrieval_neighborhoods: Retrieval
    retrieval_shared_order: Retrieval
    clustering: dict[str, dict[str, dict[str, PartitionScores]]]
    hubness: dict[str, dict[str, Interval]]
    counts: Counts
    of_half: dict[str, Counts]
    accuracy_tau: Interval | None = None
    invariance_error: float | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def forms(self) -> dict[str, Retrieval]:
        """The forms of retrieval that were measured, by the names of their fields."""
        measured = {form: getattr(self, form) for form in FORMS}
        return {form: methods for form, methods in measured.items() if methods}

    def record(self) -> dict[str, Any]:
        """As `results.json` has it: the metrics of a gallery stand beside its counts, as do those of the halves."""

        def flat(methods: Retrieval) -> dict[str, Any]:
            return {
                method: {half: {g: _flat(scores) for g, scores in own.items()} for half, own in halves.items()}
                for method, halves in methods.items()
            }

        told: dict[str, Any] = {form: flat(methods) for form, methods in self.forms().items()}
        told |= {key: _plain_fields(getattr(self, key)) for key in ("clustering", "hubness")}
        told["counts"] = asdict(self.counts) | {half: asdict(own) for half, own in self.of_half.items()}
        if self.accuracy_tau is not None:
            told["accuracy_tau"] = asdict(self.accuracy_tau)
        if self.invariance_error is not None:
            told["invariance_error"] = self.invariance_error
        return told | self.facts | {"seconds": self.seconds}


def _flat(scores: GalleryScores) -> dict[str, Any]:
    told = asdict(scores)
    return told.pop("metrics") | told


def _plain_fields(value: Any) -> Any:
    return {key: _plain_fields(own) for key, own in value.items()} if isinstance(value, dict) else asdict(value)


def evaluate_methods(
    methods: Methods,
    records: Sequence[Record],
    train_tasks: Collection[str],
    validation_tasks: Collection[str] = (),
    shared_order: Methods | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Results:
    """Scores of every method on models of seen and of unseen tasks.

    Each half is scored by itself: its models are the queries and the gallery.

    Args:
      methods: for each name the embeddings of its seeds, float arrays with a row for each record, computed
        with every model's classes in an order of its own.
      records: the models, exact duplicates removed.
      train_tasks: tasks the encoders were trained on; "seen" are their models.
      validation_tasks: tasks used to choose among encoders; "unseen" are the models of neither list.
      shared_order: the same methods on the zoo whose models of one data set share the order of their classes.
      resamples: bootstrap samples of the retrieval scores.
      seed: of bootstrap, ties and k-means.

    Raises:
      ValueError: an array is not finite or has another number of rows than there are records; the message
        names the method.
    """
    forms: dict[str, Methods] = dict(zip(FORMS, (methods, methods, shared_order or {}), strict=True))
    neighbors: dict[str, int] = dict(zip(FORMS, (0, NEIGHBORS, 0), strict=True))
    for own in forms.values():
        for name, arrays in own.items():
            _check(name, arrays, len(records))
    elsewhere = {*train_tasks, *validation_tasks}
    rows = {
        "seen": [i for i, record in enumerate(records) if record.task in train_tasks],
        "unseen": [i for i, record in enumerate(records) if record.task not in elsewhere],
    }
    subset = {half: [records[i] for i in chosen] for half, chosen in rows.items()}
    counts = {half: _counts(chosen) for half, chosen in subset.items()}
    found: dict[str, Retrieval] = {form: {name: {} for name in own} for form, own in forms.items()}
    results = Results(
        *found.values(),
        clustering={n: {} for n in methods},
        hubness={n: {} for n in methods},
        counts=_counts(records),
        of_half=counts,
    )
    work = [(form, name, half) for form, own in forms.items() for name in own for half in HALVES]
    for form, name, half in tqdm(work, desc="evaluation", unit="method", disable=None):
        arrays = [np.asarray(array)[rows[half]] for array in forms[form][name]]
        found[form][name][half] = retrieval_scores(arrays, subset[half], resamples, seed, neighbors[form])
        if form == "retrieval":
            results.clustering[name][half] = clustering_scores(arrays, subset[half], seed)
            results.hubness[name][half] = hubness(arrays)
    return results


def write_results(path: str | os.PathLike[str], results: Results) -> None:
    """Writes the results as JSON, atomically.

    NumPy scalars and arrays become numbers and lists; numbers that are not finite become null.
    """
    text = json.dumps(plain(results.record()), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(Path(path), f"{text}\n".encode())


def plain(value: Any) -> Any:
    """The value in JSON's own types, every number finite or None."""
    match value:
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case list() | tuple():
            return [plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value


def _check(method: str, arrays: Sequence[np.ndarray], count: int) -> None:
    if not arrays:
        raise ValueError(f"method {method}: no embeddings")
    for array in arrays:
        if len(array) != count:
            raise ValueError(f"method {method}: {len(array)} embeddings for {count} records")
        if not np.isfinite(array).all():
            row = int(np.argmin(np.isfinite(array).all(axis=1)))
            raise ValueError(f"method {method}: embedding {row} is not finite")


def _counts(records: Sequence[Record]) -> Counts:
    relevance = Relevance.of(records)
    labels = (relevance.task, relevance.architecture, relevance.run, relevance.lineage)
    return Counts(len(records), *(len(np.unique(own)) for own in labels))
