"""Ranks a gallery for a data set, and says why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from wsrl.data import ImageSet, normalize
from wsrl.encoder.features import network_features
from wsrl.gallery import TILE, Gallery
from wsrl.recommend.logme import log_maximum_evidence
from wsrl.recommend.probes import Query
from wsrl.recommend.start_score import StartScore, predict_start
from wsrl.zoo.load import load_networks
from wsrl.zoo.manifest import Record

NEAR = 20  # models whose accuracies tell what to expect, and that LogME ranks anew


@dataclass(frozen=True)
class Hit:
    """A model of the gallery.

    Attributes:
      record: of the manifest.
      similarity: to the query's vectors, on average; see `wsrl.search.query_expansion`.
      start: predicted accuracy of a linear probe, above the gallery's mean, where it was asked for.
      logme: log maximum evidence a training image, where it was asked for.
    """

    record: Record
    similarity: float
    start: float | None = None
    logme: float | None = None


@dataclass(frozen=True)
class Answer:
    """A ranked gallery, and why.

    Attributes:
      hits: best first.
      tasks: of the zoo with the mean similarities of their models, the nearest first.
      near: models that the expected accuracy comes from, `NEAR` or all.
      expected_accuracy: mean of the accuracies that the manifest tells of the nearest models, weighted by similarity;
        not measured on the data.
      probe_accuracy: of the query.
    """

    hits: list[Hit]
    tasks: list[tuple[str, float]]
    near: int
    expected_accuracy: float
    probe_accuracy: float | None


def recommend(gallery: Gallery, query: Query) -> Answer:
    """Ranks a gallery by its neighbourhoods' mean similarity to the vectors of a query; the gallery is not empty."""
    similarity = gallery.neighbourhoods().similarities(query.vectors, query.kinds).mean(0)
    order = np.argsort(-similarity, kind="stable")
    return Answer(
        hits=[Hit(gallery.records[i], float(similarity[i])) for i in order],
        tasks=nearest_tasks(gallery, similarity),
        near=len(order[:NEAR]),
        expected_accuracy=expected_accuracy(similarity, np.array([record.accuracy for record in gallery.records])),
        probe_accuracy=query.accuracy,
    )


def expected_accuracy(similarity: Float[np.ndarray, "n"], accuracy: Float[np.ndarray, "n"]) -> float:
    """Mean accuracy of the `NEAR` most similar models, weighted by similarity."""
    near = np.argsort(-similarity, kind="stable")[:NEAR]
    weights = np.maximum(similarity[near], 0) + 1e-6
    return float((weights * accuracy[near]).sum() / weights.sum())


def nearest_tasks(gallery: Gallery, similarity: Float[np.ndarray, "n"]) -> list[tuple[str, float]]:
    """All tasks of a gallery, the nearest first, with the mean similarity of their models."""
    names, task = np.unique([record.task for record in gallery.records], return_inverse=True)
    means = np.bincount(task, similarity) / np.bincount(task)
    return [(str(names[i]), float(means[i])) for i in np.argsort(-means, kind="stable")]


def rank_by_start(gallery: Gallery, query: Query, score: StartScore) -> list[Hit]:
    """Ranks a gallery by how good a start for fine-tuning each model is; similarities are of the vectors alone."""
    found = predict_start(score, gallery.vectors, gallery.sizes, query)
    similarity = query.similarities(gallery.vectors)
    order = np.argsort(-found, kind="stable")
    return [Hit(gallery.records[i], float(similarity[i]), float(found[i])) for i in order]


def rank_by_logme(hits: Sequence[Hit], zoo: Path, images: ImageSet, progress: str | None = None) -> list[Hit]:
    """Ranks models anew by LogME of their features on the images that are not held out, which must be few."""
    usable = load_networks(zoo, [hit.record for hit in hits], TILE)
    train = ~images.held_out
    responses = network_features(usable.graphs, normalize(images.x[train])[..., None], progress)
    scores = {
        record.id: log_maximum_evidence(response.features, images.y[train])
        for record, response in zip(usable.records, responses, strict=True)
    }
    ranked = [replace(hit, logme=scores.get(hit.record.id)) for hit in hits]
    return sorted(ranked, key=lambda hit: -np.inf if hit.logme is None else hit.logme, reverse=True)
