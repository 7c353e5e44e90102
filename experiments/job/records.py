"""The models of a zoo as the stages use them: splits, labels for training, the score that chooses among steps."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from wsrl.errors import InputError
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import query_scores
from wsrl.training.sampling import Examples
from wsrl.zoo.manifest import Record, assign_splits, read_manifest

SPLITS = ("train", "validation", "test")


def read_records(zoo: Path, seed: int) -> tuple[list[Record], list[str]]:
    """Reads a zoo's manifest; splits are drawn where it names none.

    Returns:
      The records, and a line for each one that cannot be used.

    Raises:
      InputError: there is no manifest.
    """
    records, problems = read_manifest(zoo)
    if any(record.split is None for record in records):
        records = assign_splits(records, seed)
    return records, problems


def indices_by_split(records: Sequence[Record]) -> dict[str, Int[np.ndarray, "_"]]:
    """Indices of the records of each split.

    Raises:
      InputError: a split has none.
    """
    split = {name: np.flatnonzero([r.split == name for r in records]) for name in SPLITS}
    for name, indices in split.items():
        if not len(indices):
            raise InputError("the zoo", f"no usable model in the {name} split", "add models or leave the splits out")
    return split


def make_examples(records: Sequence[Record]) -> Examples:
    """What training may know of the records."""
    relevance = Relevance.of(records)
    accuracy = np.array([record.accuracy for record in records], np.float32)
    orders = [record.get("class_order") for record in records]
    return Examples(relevance.task, relevance.lineage, relevance.architecture, accuracy, orders)


def validation_score(
    records: Sequence[Record], indices: Int[np.ndarray, "_"], neighbors: int = 0
) -> Callable[[Float[np.ndarray, "n dim"]], float]:
    """Returns the score that chooses among steps: mAP on validation tasks, within and across architectures.

    Args:
      records: of all models, whose embeddings the score takes.
      indices: of the validation models, which are queries and gallery.
      neighbors: see `query_scores`.
    """
    relevance = Relevance.of([records[i] for i in indices])

    def score(embeddings: np.ndarray) -> float:
        scores = query_scores(embeddings[indices], relevance, neighbors=neighbors)
        maps = [scores[gallery]["map"] for gallery in ("same", "cross")]
        finite = [values[np.isfinite(values)] for values in maps]
        return float(np.mean([values.mean() for values in finite if len(values)] or [0.0]))

    return score
