from dataclasses import astuple

import numpy as np
import pytest
import scipy.stats
from evaluation_records import make_record, make_zoo, task_embeddings

from wsrl.evaluation import Interval, accuracy_tau, clustering_scores, hubness

NOTHING = Interval()


def test_clusters_follow_tasks_or_nothing():
    records = make_zoo()
    good = clustering_scores([task_embeddings(records, 0.05, seed) for seed in range(3)], records)
    assert good["task"].nmi.value > 0.95 and good["task"].ari.value > 0.9
    assert good["task"].silhouette.value > 0.8
    assert good["architecture"].ari.value < 0.1
    assert good["task"].nmi.low <= good["task"].nmi.value <= good["task"].nmi.high
    noise = np.random.default_rng(0).normal(size=(len(records), 8))
    assert clustering_scores([noise], records)["task"].ari.value < 0.2


def test_fewer_different_vectors_than_clusters_is_no_warning():
    records = make_zoo()
    scores = clustering_scores([np.ones((len(records), 4))], records)
    assert scores["task"].ari.value == 0


@pytest.mark.parametrize("tasks", [["a"] * 5, list("abcde"), []])
def test_partitions_without_structure_have_no_score(tasks):
    records = [make_record(i, task) for i, task in enumerate(tasks)]
    embeddings = np.random.default_rng(0).normal(size=(len(tasks), 3))
    assert clustering_scores([embeddings], records)["task"].nmi == NOTHING


def test_hubness_agrees_with_the_definition():
    vectors = np.random.default_rng(0).normal(size=(300, 30))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    occurrence = np.bincount(np.argsort(-similarity, axis=1)[:, :10].ravel(), minlength=300)
    assert hubness([vectors]).value == pytest.approx(scipy.stats.skew(occurrence))


def test_hubness_finds_a_hub_and_nothing_in_tiny_zoos():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(400, 50))
    spread[:, 0] += 5
    hubs = spread + 0
    hubs[:10, 1:] *= 0.1  # near the common direction, and so near to everything
    assert hubness([hubs]).value > hubness([spread]).value + 1
    assert hubness([np.ones((2, 3))]) == NOTHING
    assert hubness([np.eye(3)]).value == 0


def test_tau_agrees_with_scipy_and_its_interval_holds_it():
    records = make_zoo(tasks=5)
    truth = np.array([record.accuracy for record in records])
    rng = np.random.default_rng(1)
    seeds = [truth + rng.normal(0, 0.2, size=len(truth)) for _ in range(3)]
    tau = accuracy_tau(seeds, records, resamples=60)
    assert tau.value == pytest.approx(np.mean([scipy.stats.kendalltau(s, truth)[0] for s in seeds]))
    assert 0 < tau.low < tau.value < tau.high < 1
    assert accuracy_tau([-truth], records, resamples=20).value == pytest.approx(-1)


def test_tau_of_constants_and_of_bad_predictions():
    records = make_zoo(tasks=3)
    count = len(records)
    assert accuracy_tau([np.zeros(count)], records) == NOTHING
    assert accuracy_tau([np.zeros(0)], []) == NOTHING
    with pytest.raises(ValueError, match="not finite"):
        accuracy_tau([np.full(count, np.nan)], records)
    with pytest.raises(ValueError, match=f"3 predictions for {count} records"):
        accuracy_tau([np.zeros(3)], records)


def test_tau_of_a_few_records_has_a_finite_interval():
    records = [make_record(i, "a", accuracy=value) for i, value in enumerate((0.1, 0.2, 0.9))]
    tau = accuracy_tau([np.array([1.0, 2.0, 3.0])], records, resamples=50)
    assert astuple(tau) == pytest.approx((1, 1, 1))
