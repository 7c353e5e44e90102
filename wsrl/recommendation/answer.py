"""Ranks the models of an index for a data set, and says why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.data import ImageSet, normalize
from wsrl.encoder.features import network_features
from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.size import network_size
from wsrl.graph.tiles import TILE
from wsrl.recommendation.architecture import Suited, rank_architectures
from wsrl.recommendation.logme import log_maximum_evidence
from wsrl.recommendation.probes import Query
from wsrl.recommendation.start_score import StartScore, predict_start
from wsrl.search.functional import Functional
from wsrl.search.index import Index
from wsrl.search.query_expansion import QueryExpansion

NEAR = 20  # models whose accuracies tell what to expect, and that LogME ranks anew


@dataclass(frozen=True)
class Recommended:
    """A model of the index.

    Attributes:
      id, path, metadata: see `wsrl.search.hit.Hit`.
      architecture: class of the architecture.
      accuracy: measured, as the metadata has it; else predicted from the weights.
      similarity: to the query's vectors, on average; see `wsrl.search.query_expansion`.
      start: predicted accuracy of a linear probe, above the mean of all models, where it was asked for.
      logme: log maximum evidence a training image, where it was asked for.
    """

    id: str
    path: str
    metadata: dict[str, object]
    architecture: str
    accuracy: float
    similarity: float
    start: float | None = None
    logme: float | None = None


@dataclass(frozen=True)
class Answer:
    """Ranked models, and why.

    Attributes:
      hits: best first.
      tasks: that the metadata names, with the mean similarities of their models, the nearest first.
      near: models that the expected accuracy comes from, `NEAR` or all.
      expected_accuracy: mean of the accuracies of the nearest models, weighted by similarity; not measured on the data.
      probe_accuracy: of the query.
      architectures: to train, the best first.
    """

    hits: list[Recommended]
    tasks: list[tuple[str, float]]
    near: int
    expected_accuracy: float
    probe_accuracy: float | None
    architectures: list[Suited]


def rank_by_similarity(models: Functional, query: Query) -> Answer:
    """Ranks models by their mean similarity to the vectors of a query; there is at least one model."""
    expansion = QueryExpansion.build(models.vectors, models.architectures)
    similarity = expansion.similarities(query.vectors, query.kinds).mean(0)
    accuracy = _accuracies(models)
    order = np.argsort(-similarity, kind="stable").tolist()
    expected = expected_accuracy(similarity, accuracy)
    return Answer(
        hits=[_recommended(models, place, similarity, accuracy) for place in order],
        tasks=nearest_tasks([str(about.get("task", "")) for about in models.metadata], similarity),
        near=len(order[:NEAR]),
        expected_accuracy=expected,
        probe_accuracy=query.accuracy,
        architectures=rank_architectures(models.metadata, models.architectures, accuracy, similarity, expected),
    )


def expected_accuracy(similarity: Float[np.ndarray, "n"], accuracy: Float[np.ndarray, "n"]) -> float:
    """Returns the mean accuracy of the `NEAR` most similar models, weighted by similarity."""
    near = np.argsort(-similarity, kind="stable")[:NEAR]
    weights = np.maximum(similarity[near], 0) + 1e-6
    return float((weights * accuracy[near]).sum() / weights.sum())


def nearest_tasks(tasks: Sequence[str], similarity: Float[np.ndarray, "n"]) -> list[tuple[str, float]]:
    """Returns all tasks but the empty one, the nearest first, with the mean similarity of their models."""
    names, task = np.unique(np.asarray(tasks, str), return_inverse=True)
    means = np.bincount(task, similarity) / np.bincount(task)
    return [(str(names[i]), float(means[i])) for i in np.argsort(-means, kind="stable") if names[i]]


def rank_by_start(index: Index, models: Functional, query: Query, score: StartScore) -> list[Recommended]:
    """Ranks models by how good a start for fine-tuning each is; similarities are of the vectors alone.

    Raises:
      CheckpointError: the file of a model cannot be read any more.
    """
    found = predict_start(score, models.vectors, network_sizes(index, models.ids), query)
    similarity, accuracy = query.similarities(models.vectors), _accuracies(models)
    order = np.argsort(-found, kind="stable").tolist()
    return [replace(_recommended(models, place, similarity, accuracy), start=float(found[place])) for place in order]


def network_sizes(index: Index, ids: Sequence[str]) -> Float[np.ndarray, "models 3"]:
    """Returns how large models are, from their files; see `wsrl.graph.size.network_size`."""
    return np.stack([network_size(_graph(index.checkpoint(name))) for name in ids])


def rank_by_logme(
    hits: Sequence[Recommended], index: Index, images: ImageSet, progress: str | None = None
) -> list[Recommended]:
    """Ranks models anew by LogME of their features on the images that are not held out, which must be few."""
    graphs = {}
    for hit in hits:
        try:
            graphs[hit.id] = _graph(index.checkpoint(hit.id))
        except CheckpointError:  # its file is gone: it stays without a value
            continue
    train = ~images.held_out
    responses = network_features(list(graphs.values()), normalize(images.x[train])[..., None], progress)
    scores = {
        name: log_maximum_evidence(response.features, images.y[train])
        for name, response in zip(graphs, responses, strict=True)
    }
    ranked = [replace(hit, logme=scores.get(hit.id)) for hit in hits]
    return sorted(ranked, key=lambda hit: -np.inf if hit.logme is None else hit.logme, reverse=True)


def _graph(checkpoint: Checkpoint):
    whole = {name: np.array(tensor, np.float32) for name, tensor in checkpoint.tensors.items()}
    return checkpoint_graph(replace(checkpoint, tensors=whole), TILE)


def _accuracies(models: Functional) -> Float[np.ndarray, "n"]:
    both = zip(models.metadata, models.accuracies, strict=True)
    told = [about.get("accuracy", predicted) for about, predicted in both]
    return np.array([value if isinstance(value, float) else 0.0 for value in told])


def _recommended(models: Functional, place: int, similarity: np.ndarray, accuracy: np.ndarray) -> Recommended:
    return Recommended(
        models.ids[place],
        models.paths[place],
        models.metadata[place],
        models.architectures[place],
        float(accuracy[place]),
        float(similarity[place]),
    )
