"""What a query may be answered with, and what answers it rightly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from wsrl.zoo.manifest import Record

GALLERIES = ("same", "cross", "any")


@dataclass(frozen=True)
class Relevance:
    """Integer labels of n models, from which the galleries of every query follow.

    A model answers a query rightly if it has the same task. The query's own run and lineage never stand in
    its gallery: a later checkpoint or a fine-tuned descendant would be found by its nearly equal weights.
    """

    task: Int[np.ndarray, "n"]
    architecture: Int[np.ndarray, "n"]
    run: Int[np.ndarray, "n"]
    lineage: Int[np.ndarray, "n"]

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Relevance":
        """Labels of the records; a missing run is the model itself, a missing lineage its run."""
        run = [record.get("run") or record.id for record in records]
        return cls(
            task=labels([record.task for record in records]),
            architecture=labels([record.architecture for record in records]),
            run=labels(run),
            lineage=labels([record.get("lineage") or name for record, name in zip(records, run, strict=True)]),
        )

    def relevant(self, queries: Int[np.ndarray, "q"]) -> Bool[np.ndarray, "q n"]:
        """Models of the same task as each query."""
        return _equal(self.task, queries)

    def eligible(self, queries: Int[np.ndarray, "q"]) -> dict[str, Bool[np.ndarray, "q n"]]:
        """Gallery of each query: models of the same architecture, of another one, or any."""
        foreign = ~(_equal(self.run, queries) | _equal(self.lineage, queries))
        same = _equal(self.architecture, queries)
        return {"same": foreign & same, "cross": foreign & ~same, "any": foreign}


def labels(names: Sequence[str]) -> Int[np.ndarray, "n"]:
    """Integer label of each name: equal names, equal labels."""
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1].astype(np.int64)


def _equal(label: Int[np.ndarray, "n"], queries: Int[np.ndarray, "q"]) -> Bool[np.ndarray, "q n"]:
    return label[queries, None] == label[None, :]
