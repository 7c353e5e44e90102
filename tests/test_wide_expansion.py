"""Search by function in an index of many models gives what comparing all of them gives."""

import numpy as np
import pytest
from test_query_expansion import around

from wsrl.search.query_expansion import QueryExpansion
from wsrl.search.segment import Segment
from wsrl.search.segments import Segments
from wsrl.search.wide_expansion import Centered, Means, Rows, WideExpansion


def wide(vectors: np.ndarray, kinds: list[str]) -> WideExpansion:
    """Of two segments."""
    places = np.random.default_rng(0).permutation(len(vectors))
    parts = [(vectors[own], own.copy()) for own in (places[:70], places[70:])]
    rows = Rows(parts, len(vectors))
    means = Means(kinds, rows)
    return WideExpansion(Segments([(Segment(Centered(*part, means)), part[1]) for part in parts]), rows, means)


@pytest.fixture(scope="module")
def models() -> tuple[np.ndarray, list[str]]:
    vectors, kinds, _ = around(tasks=4, each=40, kinds=3)
    return vectors, kinds


def test_scores_are_those_of_comparing_all(models):
    vectors, kinds = models
    found, all_models = wide(vectors[8:], kinds[8:]), QueryExpansion.build(vectors[8:], kinds[8:])
    queries = found.centered(vectors[:8], kinds[:8])
    for place in range(8):
        rows, scores = found.ranked(queries[place : place + 1], 10)
        expected = all_models.similarities(vectors[place : place + 1], kinds[place : place + 1])
        assert rows.tolist() == list(range(len(vectors) - 8))  # the pool holds them all
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    values = np.random.default_rng(1).random(len(vectors) - 8)
    places = np.array([3, 5, 80])
    np.testing.assert_allclose(found.smoothed(values, places), all_models.smoothed(values, places), atol=1e-5)


def test_what_is_left_out_expands_nothing(models):
    vectors, kinds = models
    out = np.random.default_rng(2).random(len(vectors)) < 0.3
    found = wide(vectors, kinds)
    rows, scores = found.ranked(found.centered(vectors[:1], kinds[:1]), 10, ~out, out)
    expected = QueryExpansion.build(vectors, kinds, spare=len(vectors)).similarities(vectors[:1], kinds[:1], out[None])
    assert rows.tolist() == np.flatnonzero(~out).tolist()
    np.testing.assert_allclose(scores, expected[:, rows], atol=1e-5)


def test_a_small_pool_holds_the_best(models, monkeypatch):
    monkeypatch.setattr("wsrl.search.wide_expansion.POOL", 40)
    vectors, kinds = models
    found = wide(vectors, kinds)
    best = []
    for place in range(0, len(vectors), 16):
        rows, scores = found.ranked(found.centered(vectors[place : place + 1], kinds[place : place + 1]), 10)
        expected = QueryExpansion.build(vectors, kinds).similarities(
            vectors[place : place + 1], kinds[place : place + 1]
        )
        top = rows[np.argsort(-scores[0])[:10]]
        best.append(np.isin(np.argsort(-expected[0])[:10], top).mean())
    assert np.mean(best) > 0.9
