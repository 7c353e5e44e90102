import numpy as np
import pytest
from evaluation_records import make_record, make_zoo, task_embeddings

from wsrl.evaluation.around import neighborhood_blocks
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import query_scores, retrieval_scores
from wsrl.search.query_expansion import centered, expand, neighbor_count, unit


def searched_anew(vectors, others, query, neighbors):
    """Similarities of a query to the others, as if the gallery held them alone."""
    neighbors = neighbor_count(len(vectors), neighbors)
    gallery, own = vectors[others], vectors[query]
    product = gallery @ gallery.T
    np.fill_diagonal(product, -2)
    rows = np.argsort(-product, axis=1)[:, : min(neighbors, len(gallery) - 1)]
    expanded = expand(gallery, gallery, rows, np.take_along_axis(product, rows, 1))
    near = expanded @ own
    nearest = np.argsort(-near)[:neighbors]
    asked = expand(own[None], expanded, nearest[None], near[nearest][None])[0]
    return (gallery @ own + expanded @ asked) / 2


@pytest.mark.parametrize("neighbors", [0, 1, 3, 100])
def test_kin_of_a_query_stand_in_no_neighborhood(neighbors):
    records = make_zoo(tasks=4, runs=6)
    relevance = Relevance.of(records)
    embeddings = task_embeddings(records, 1.0)
    vectors = centered(unit(embeddings.astype(np.float64)), relevance.architecture)
    ranked = {
        int(query): row
        for queries, order in neighborhood_blocks(embeddings, relevance, neighbors=neighbors)
        for query, row in zip(queries, order, strict=True)
    }
    assert sorted(ranked) == list(range(len(records)))
    for query, order in ranked.items():
        others = np.flatnonzero(relevance.eligible(np.array([query]))["any"][0])
        expected = searched_anew(vectors, others, query, neighbors)
        place = {int(model): i for i, model in enumerate(others)}
        found = np.array([expected[place[int(model)]] for model in order if int(model) in place])
        assert len(found) == len(others) and (np.diff(found) <= 2e-6).all()


def test_scores_by_neighborhoods():
    records = make_zoo(tasks=6, runs=18)
    relevance = Relevance.of(records)
    noisy = task_embeddings(records, 1.0)
    plain, around = (query_scores(noisy, relevance, neighbors=count) for count in (0, 10))
    assert np.nanmean(around["any"]["map"]) > np.nanmean(plain["any"]["map"])
    random = [np.random.default_rng(0).normal(size=(len(records), 16))]
    chance = retrieval_scores(random, records, resamples=20, neighbors=10)
    assert abs(chance["any"].metrics["precision_at_1"].value - 1 / 6) < 0.12


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_models(count):
    records = [make_record(i, "a", run=f"r{i}") for i in range(count)]
    scores = retrieval_scores([np.ones((count, 3))], records, resamples=5, neighbors=10)
    assert scores["any"].queries == (count if count == 2 else 0)
