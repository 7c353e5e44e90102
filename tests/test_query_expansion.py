import numpy as np
import pytest

from wsrl.search.query_expansion import QueryExpansion, centered, expand, neighbor_count, unit


def around(tasks: int, each: int, kinds: int, seed: int = 0):
    """Unit vectors of models of several tasks and kinds, so noisy that many nearest ones are of another task."""
    rng = np.random.default_rng(seed)
    task, kind = np.repeat(np.arange(tasks), each), np.tile(np.arange(each) % kinds, tasks)
    centres, offsets = rng.normal(size=(tasks, 32)), 1.5 * rng.normal(size=(kinds, 32))
    vectors = unit(centres[task] + offsets[kind] + 1.5 * rng.normal(size=(len(task), 32)))
    return vectors.astype(np.float32), [f"kind {number}" for number in kind], task


@pytest.mark.parametrize("groups", [1, 3])
def test_centered_vectors_are_of_length_one_about_the_origin_of_their_group(groups):
    rng = np.random.default_rng(0)
    group = np.arange(3000) % groups
    apart = rng.normal(size=(groups, 8))[group] * 5
    vectors = rng.normal(size=(3000, 8))
    mirrored = np.concatenate([apart + vectors, apart - vectors])  # about the mean of each group
    found = centered(mirrored, np.tile(group, 2))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    # the mean of all, which counts as one more of each group, is hardly seen among so many
    np.testing.assert_allclose(found[:3000], unit(vectors), atol=0.05)
    if groups == 1:
        np.testing.assert_array_equal(centered(mirrored), found)


def test_a_group_of_one_keeps_a_direction():
    vectors = unit(np.random.default_rng(0).normal(size=(4, 6)))
    np.testing.assert_allclose(np.linalg.norm(centered(vectors, np.arange(4)), axis=1), 1)


def test_expanded_vectors_are_sums_weighted_by_similarity(monkeypatch):
    monkeypatch.setattr("wsrl.search.query_expansion.BLOCK", 2)
    own = np.array([[1.0, 0], [0, 1], [0, -1]])
    others = np.array([[0.0, 2], [3, 0]])
    rows, similarity = np.array([[0, 1], [1, 1], [0, 0]]), np.array([[0.5, 0], [1, -1], [-1, 0]])
    expected = np.array([[1, 1], [3, 1], [0, -1]]) / np.sqrt([[2], [10], [1]])
    np.testing.assert_allclose(expand(own, others, rows, similarity), expected)


def test_neighbors_are_few_where_models_are():
    assert [neighbor_count(models) for models in (9, 10, 55, 200, 10**6)] == [0, 1, 5, 20, 20]
    assert neighbor_count(1000, most=3) == 3


def test_query_expansion_finds_more_of_a_task_than_vectors_do():
    vectors, kinds, task = around(tasks=6, each=40, kinds=4)
    queries, of_queries, wanted = vectors[::8], kinds[::8], task[::8]
    rest = np.arange(len(task)) % 8 != 0
    found = QueryExpansion.build(vectors[rest], [kinds[i] for i in np.flatnonzero(rest)])
    similarity = found.similarities(queries, of_queries)
    assert similarity.shape == (len(queries), rest.sum()) and np.abs(similarity).max() <= 1 + 1e-6
    right = task[rest][np.argsort(-similarity, axis=1)[:, :20]] == wanted[:, None]
    plain = task[rest][np.argsort(-queries @ vectors[rest].T, axis=1)[:, :20]] == wanted[:, None]
    assert right.mean() > plain.mean() + 0.1


def test_a_model_of_the_gallery_is_nearest_to_itself_whatever_the_order():
    vectors, kinds, _ = around(tasks=4, each=12, kinds=3)
    order = np.random.default_rng(1).permutation(len(kinds))
    first = QueryExpansion.build(vectors, kinds).similarities(vectors, kinds)
    again = QueryExpansion.build(vectors[order], [kinds[i] for i in order]).similarities(vectors, kinds)
    np.testing.assert_allclose(again, first[:, order], atol=1e-5)
    np.testing.assert_array_equal(first.argmax(1), np.arange(len(kinds)))


def test_copies_of_one_model_have_no_direction_and_hinder_nobody():
    vectors, _, _ = around(tasks=2, each=20, kinds=1)
    vectors[:12] = np.eye(1, 32)
    similarity = QueryExpansion.build(vectors, ["copies"] * 12 + ["others"] * 28).similarities(vectors, ["others"] * 40)
    assert np.isfinite(similarity).all()
    np.testing.assert_array_equal(similarity[12:, 12:].argmax(1), np.arange(28))


@pytest.mark.parametrize("count", [1, 2, 15])
def test_small_galleries_and_unknown_kinds(count):
    vectors, kinds, _ = around(tasks=1, each=count, kinds=1)
    similarity = QueryExpansion.build(vectors, kinds).similarities(vectors[:1], ["never seen"])
    assert similarity.shape == (1, count) and np.isfinite(similarity).all()


def test_smoothed_values_are_half_those_of_the_neighbors():
    vectors, kinds, task = around(tasks=4, each=60, kinds=3)
    rng = np.random.default_rng(0)
    level = np.array([0.2, 0.4, 0.6, 0.8])[task]
    found = QueryExpansion.build(vectors, kinds)
    noisy = level + 0.3 * rng.normal(size=len(level))
    assert np.abs(found.smoothed(noisy) - level).mean() < 0.7 * np.abs(noisy - level).mean()
    similarity = found.vectors @ found.vectors.T
    np.fill_diagonal(similarity, -1)
    near = np.argsort(-similarity[7])[:20]
    expected = (noisy[7] + np.average(noisy[near], weights=similarity[7, near])) / 2
    assert found.smoothed(noisy)[7] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(found.smoothed(np.full(len(level), 0.3)), 0.3, atol=1e-6)


def test_models_without_neighbors_keep_their_values():
    vectors, kinds, _ = around(tasks=1, each=5, kinds=1)
    values = np.arange(5.0)
    np.testing.assert_array_equal(QueryExpansion.build(vectors, kinds).smoothed(values), values)
