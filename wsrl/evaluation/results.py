"""All scores of all methods in one dictionary, and its file."""

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from wsrl.evaluation.clustering import clustering_scores
from wsrl.evaluation.hubness import hubness
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import retrieval_scores
from wsrl.files import write_atomically
from wsrl.search.query_expansion import NEIGHBORS
from wsrl.zoo.manifest import Record

AROUND = "retrieval_neighborhoods"
Methods = Mapping[str, Sequence[Float[np.ndarray, "n _"]]]


def evaluate_methods(
    methods: Methods,
    records: Sequence[Record],
    train_tasks: Collection[str],
    validation_tasks: Collection[str] = (),
    shared_order: Methods | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
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

    Returns:
      {"retrieval": {method: {"seen" | "unseen": see `retrieval_scores`}}, "retrieval_neighborhoods": the same by
      `wsrl.search.query_expansion`, "retrieval_shared_order": as "retrieval" (only with `shared_order`), "clustering"
      and "hubness": {method: {"seen" | "unseen": see
      `clustering_scores` and `hubness`}}, "counts": {"models", "tasks", ..., "seen": {...}, "unseen":
      {...}}}.

    Raises:
      ValueError: an array is not finite or has another number of rows than there are records; the message
        names the method.
    """
    forms = {"retrieval": methods, AROUND: methods}
    forms |= {"retrieval_shared_order": shared_order} if shared_order else {}
    for form in forms.values():
        for name, arrays in form.items():
            _check(name, arrays, len(records))
    rows = {
        "seen": [i for i, record in enumerate(records) if record.task in train_tasks],
        "unseen": [
            i
            for i, record in enumerate(records)
            if record.task not in train_tasks and record.task not in validation_tasks
        ],
    }
    subset = {half: [records[i] for i in chosen] for half, chosen in rows.items()}
    results: dict[str, Any] = {form: {name: {} for name in form_methods} for form, form_methods in forms.items()}
    results |= {"clustering": {name: {} for name in methods}, "hubness": {name: {} for name in methods}}
    work = [(form, name, half) for form in forms for name in forms[form] for half in rows]
    for form, name, half in tqdm(work, desc="evaluation", unit="method", disable=None):
        arrays = [np.asarray(array)[rows[half]] for array in forms[form][name]]
        results[form][name][half] = retrieval_scores(
            arrays, subset[half], resamples, seed, NEIGHBORS if form == AROUND else 0
        )
        if form == "retrieval":
            results["clustering"][name][half] = clustering_scores(arrays, subset[half], seed)
            results["hubness"][name][half] = hubness(arrays)
    results["counts"] = _counts(records) | {half: _counts(chosen) for half, chosen in subset.items()}
    return results


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Writes the results as JSON, atomically.

    NumPy scalars and arrays become numbers and lists; numbers that are not finite become null.
    """
    text = json.dumps(plain(results), indent=2, allow_nan=False, ensure_ascii=False)
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


def _counts(records: Sequence[Record]) -> dict[str, int]:
    relevance = Relevance.of(records)
    return {
        "models": len(records),
        "tasks": len(np.unique(relevance.task)),
        "architectures": len(np.unique(relevance.architecture)),
        "runs": len(np.unique(relevance.run)),
        "lineages": len(np.unique(relevance.lineage)),
    }
