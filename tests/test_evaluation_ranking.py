import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import average_precision_score, ndcg_score

from wsrl.evaluation.ranking import (
    LIMIT,
    METRICS,
    cosine_similarity,
    rank_gallery,
    ranked_blocks,
    ranking_metrics,
)


def reference(ranked_relevance: list[bool]) -> dict[str, float]:
    """The definitions, one query at a time: whether each item of its gallery is relevant, best first."""
    total = sum(ranked_relevance)
    if not total:
        return dict.fromkeys((*METRICS, LIMIT), np.nan)
    precision = [sum(ranked_relevance[: k + 1]) / (k + 1) for k in range(len(ranked_relevance))]
    gains = [1 / np.log2(place + 2) for place in range(10)]
    return {
        "precision_at_1": float(ranked_relevance[0]),
        "precision_at_10": sum(ranked_relevance[:10]) / 10,
        "r_precision": precision[total - 1],
        "map": sum(p for p, hit in zip(precision, ranked_relevance, strict=True) if hit) / total,
        "ndcg_at_10": sum(g for g, hit in zip(gains, ranked_relevance, strict=False) if hit) / sum(gains[:total]),
        "mrr": 1 / (ranked_relevance.index(True) + 1),
        LIMIT: min(total, 10) / 10,
    }


@st.composite
def galleries(draw):
    queries, items = draw(st.integers(1, 4)), draw(st.integers(1, 30))
    seed = draw(st.integers(0, 2**32 - 1))
    similarity = np.random.default_rng(seed).random((queries, items))
    masks = arrays.arrays(bool, (queries, items))
    return similarity, draw(masks), draw(masks)


@settings(max_examples=150)
@given(galleries())
def test_agrees_with_the_definitions(gallery):
    similarity, relevant, eligible = gallery
    scores = ranking_metrics(rank_gallery(similarity), relevant, eligible)
    for query in range(len(similarity)):
        order = np.argsort(-similarity[query])
        expected = reference([bool(relevant[query, i]) for i in order if eligible[query, i]])
        for name, value in expected.items():
            np.testing.assert_allclose(scores[name][query], value, rtol=1e-12, err_msg=name)


@settings(max_examples=50)
@given(galleries())
def test_agrees_with_scikit_learn(gallery):
    similarity, relevant, eligible = gallery
    scores = ranking_metrics(rank_gallery(similarity), relevant, eligible)
    for query in range(len(similarity)):
        truth, values = relevant[query, eligible[query]], similarity[query, eligible[query]]
        if truth.any():
            np.testing.assert_allclose(scores["map"][query], average_precision_score(truth, values))
        if truth.any() and len(truth) > 1:
            np.testing.assert_allclose(scores["ndcg_at_10"][query], ndcg_score([truth], [values], k=10))


def test_order_of_the_manifest_is_no_help_when_all_tie():
    tasks = np.repeat(np.arange(20), 20)
    relevant = tasks[:, None] == tasks[None, :]
    order = rank_gallery(np.zeros((400, 400)))
    scores = ranking_metrics(order, relevant, ~np.eye(400, dtype=bool))
    assert scores["precision_at_10"].mean() < 0.1  # chance is .05; a stable sort would favor the first task
    assert not np.array_equal(order[0], np.arange(400))


def test_equal_vectors_tie_exactly_and_zero_vectors_have_no_direction():
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(1, 97)), 301, axis=0).astype(np.float32)
    vectors[7] = 0
    similarity = cosine_similarity(vectors, vectors)
    others = np.delete(np.arange(301), 7)
    assert np.unique(similarity[np.ix_(others, others)]).size == 1
    assert not similarity[7].any()


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_blocks_cover_every_query_alike(block):
    vectors = np.random.default_rng(0).normal(size=(50, 8))
    parts = list(ranked_blocks(vectors, block=block))
    np.testing.assert_array_equal(np.concatenate([queries for queries, _ in parts]), np.arange(50))
    np.testing.assert_array_equal(
        np.concatenate([order for _, order in parts]), rank_gallery(cosine_similarity(vectors, vectors))
    )


def test_refuses_vectors_that_are_not_finite():
    vectors = np.ones((4, 3))
    vectors[2, 1] = np.nan
    with pytest.raises(ValueError, match="embedding 2 is not finite"):
        list(ranked_blocks(vectors))
