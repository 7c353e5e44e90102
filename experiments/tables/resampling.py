"""New embeddings with the spread of measured ones, to try an index on larger zoos than there are.

A zoo's vectors are nested: models of one lineage lie around the lineage's center, the lineages of one task around the
task's, the tasks around the center of all. New centers and members are drawn at each of the three levels from a normal
distribution with the covariance that the real zoo shows at that level, and scaled to the unit sphere. A new zoo has as
many models a lineage and lineages a task, on average, as the real one, and so ever more tasks.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from wsrl.evaluation.ranking import unit_vectors


@dataclass(frozen=True)
class Spread:
    """What `resample` draws from. A factor F gives vectors of covariance F.T @ F from standard normal ones.

    Attributes:
      centre: mean of the tasks' centers.
      tasks, lineages, models: factors of the tasks around the centre, of lineages around their task, of models around
        their lineage.
      models_per_lineage, lineages_per_task: averages.
    """

    centre: Float32[np.ndarray, "dim"]
    tasks: Float32[np.ndarray, "_ dim"]
    lineages: Float32[np.ndarray, "_ dim"]
    models: Float32[np.ndarray, "_ dim"]
    models_per_lineage: float
    lineages_per_task: float


def measure_spread(
    embeddings: Float[np.ndarray, "n dim"], task: Int[np.ndarray, "n"], lineage: Int[np.ndarray, "n"]
) -> Spread:
    """The spread of real embeddings, scaled to unit length.

    Args:
      embeddings: finite, none zero.
      task, lineage: labels; a lineage that spans tasks counts as one in each of them.
    """
    vectors = unit_vectors(embeddings)
    tasks, task_of = np.unique(task, return_inverse=True)
    lineages, lineage_of = np.unique(np.stack([task_of, lineage], axis=1), axis=0, return_inverse=True)
    lineage_of = lineage_of.reshape(-1)
    task_centres = _means(vectors, task_of)
    lineage_centres = _means(vectors, lineage_of)
    centre = task_centres.mean(axis=0)
    return Spread(
        centre=centre.astype(np.float32),
        tasks=_factor(task_centres - centre, 1),
        lineages=_factor(lineage_centres - task_centres[lineages[:, 0]], len(tasks)),
        models=_factor(vectors - lineage_centres[lineage_of], len(lineages)),
        models_per_lineage=len(vectors) / len(lineages),
        lineages_per_task=len(lineages) / len(tasks),
    )


def resample(spread: Spread, count: int, rng: np.random.Generator) -> Float32[np.ndarray, "count dim"]:
    """Draws unit vectors of a new zoo, in random order."""
    lineages = max(1, round(count / spread.models_per_lineage))
    tasks = max(1, round(lineages / spread.lineages_per_task))

    def draw(factor: Float32[np.ndarray, "rank dim"], number: int) -> Float32[np.ndarray, "number dim"]:
        return rng.standard_normal((number, len(factor)), dtype=np.float32) @ factor

    task_centres = spread.centre + draw(spread.tasks, tasks)
    lineage_centres = task_centres[rng.integers(tasks, size=lineages)] + draw(spread.lineages, lineages)
    vectors = lineage_centres[rng.integers(lineages, size=count)]
    vectors += draw(spread.models, count)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _means(vectors: Float[np.ndarray, "n dim"], group: Int[np.ndarray, "n"]) -> Float[np.ndarray, "groups dim"]:
    sums = np.stack([np.bincount(group, weights=column) for column in vectors.T], axis=1)
    return sums / np.bincount(group)[:, None]


def _factor(deviations: Float[np.ndarray, "n dim"], means: int) -> Float32[np.ndarray, "rank dim"]:
    """Factor of the covariance of deviations from so many estimated means."""
    _, scale, directions = np.linalg.svd(deviations, full_matrices=False)
    return (scale[:, None] * directions / max(1, len(deviations) - means) ** 0.5).astype(np.float32)
