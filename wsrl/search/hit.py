"""A model that answers a query."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """A model that answers a query.

    Attributes:
      rank: from 1.
      id: of the model in the index.
      score: how similar it is, 0 to 1. By `weights`, the cosine of the two weights vectors. By `function`, the mean of
        the cosines of the two function vectors and of the two expanded ones (see `wsrl.search.query_expansion`).
        By `relative`, by how far what two children change of their base is more alike than strangers are (see
        `wsrl.relative.neighbors`). Negative similarities count as 0; 1 if the weights are the same.
      by: the vector that the score rests on, "weights", "function" or "relative".
      architecture, parameters: see `wsrl.embedded.Embedded`.
      accuracy: predicted, 0 to 1, smoothed over the model's neighbors in the index; None without a function vector.
      same_weights: whether all its weights equal the query's, whatever the format, names and order of units.
      path: of its file or folder.
      metadata: what the manifest of its zoo says, and above it what users noted with `Index.annotate`.
    """

    rank: int
    id: str
    score: float
    by: str
    architecture: str
    parameters: int
    accuracy: float | None
    same_weights: bool
    path: str
    metadata: Mapping[str, object]

    def record(self) -> dict[str, object]:
        """Returns what programs read about the hit, as plain JSON values."""
        accuracy = None if self.accuracy is None else round(self.accuracy, 6)
        return {
            **{"rank": self.rank, "id": self.id, "score": round(self.score, 6), "by": self.by},
            **{"same_weights": self.same_weights, "architecture": self.architecture, "parameters": self.parameters},
            **{"predicted_accuracy": accuracy, "path": self.path, "metadata": dict(self.metadata)},
        }
