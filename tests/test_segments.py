"""Segments of vectors: candidates, filters, and several of them searched as one."""

from importlib.util import find_spec

import numpy as np
import pytest
from test_nearest import clustered

from wsrl.errors import InputError
from wsrl.search import graph as graph_module
from wsrl.search import segment as segment_module
from wsrl.search.components import principal_axes, project
from wsrl.search.fixed_point import single, to_fixed
from wsrl.search.graph import Graph
from wsrl.search.hashed import Hashed, scann
from wsrl.search.query_expansion import unit
from wsrl.search.segment import Segment, build_candidates, intrinsic_dimension, nearest_exactly
from wsrl.search.segments import Segments

MAKERS = [
    pytest.param(Hashed, marks=pytest.mark.skipif(scann() is None, reason="ScaNN has no wheel here")),
    pytest.param(Graph.build, marks=pytest.mark.skipif(find_spec("rabitqlib") is None, reason="extra `graph`")),
]


def exact(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ single(vectors).T), axis=1, kind="stable")[:, :k]


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)]))


@pytest.fixture
def many(monkeypatch) -> np.ndarray:
    """As many vectors in sixteen bits as candidates are searched for."""
    monkeypatch.setattr(segment_module, "BRUTE_FORCE_BELOW", 3000)
    return to_fixed(clustered(3000, 64, noise=0.1))


@pytest.mark.parametrize("make", MAKERS)
def test_candidates_hold_the_nearest_and_scores_are_those_of_the_vectors(many, make):
    segment = Segment(many, make)
    queries = clustered(40, 64, seed=1)
    rows, cosine = segment.search(queries, 10)
    assert recall(rows, exact(many, queries, 10)) >= 0.95
    assert segment.compared(10) == segment.candidates.least and segment.compared(100) == 400
    np.testing.assert_allclose(cosine, np.take_along_axis(queries @ single(many).T, rows, 1), atol=1e-6)
    assert (np.diff(cosine, axis=1) <= 0).all()
    own = segment.search(single(many[:50]), 1)
    assert (own[0][:, 0] == np.arange(50)).mean() >= 0.98
    np.testing.assert_allclose(own[1], 1, atol=1e-4)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("share", [0.002, 0.01, 0.5])
def test_what_a_filter_keeps_is_found(many, make, share):
    allowed = np.random.default_rng(2).random(len(many)) < share
    queries = clustered(20, 64, seed=1)
    rows, cosine = Segment(many, make).search(queries, 10, allowed)
    places = np.flatnonzero(allowed)
    expected = places[exact(many[places], queries, 10)]
    there = rows >= 0
    assert there.sum(1).tolist() == [min(10, len(places))] * 20 and allowed[rows[there]].all()
    assert np.isneginf(cosine[~there]).all()
    assert recall(rows, expected) >= (0.95 if share == 0.5 else 1)


def test_filters_by_turns(many):
    segment, queries = Segment(many, lambda _: None), clustered(5, 64, seed=1)
    rng = np.random.default_rng(3)
    filters = [rng.random(len(many)) < share for share in (0.01, 0.01, 0.02)]
    for allowed in (*filters, *filters[::-1]):
        rows, cosine = segment.search(queries, 10, allowed)
        places = np.flatnonzero(allowed)
        np.testing.assert_array_equal(rows, places[exact(many[places], queries, 10)])
        np.testing.assert_allclose(cosine, np.take_along_axis(queries @ single(many).T, rows, 1), atol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_more_hits_than_candidates_are_all_there_is(many, make):
    rows, cosine = Segment(many[:200], make).search(clustered(3, 64, seed=1), 500)
    assert rows.shape == (3, 200) and np.isfinite(cosine).all()
    assert all(len(set(row)) == 200 for row in rows.tolist())


@pytest.mark.parametrize("dim", [4, 64, 1024])
def test_sixteen_bits_cost_little(dim):
    vectors, queries = clustered(500, dim), clustered(5, dim, seed=1)
    _, whole = nearest_exactly(vectors, queries, 10)
    _, fixed = nearest_exactly(to_fixed(vectors), queries, 10)
    np.testing.assert_allclose(fixed, whole, atol=5e-5)
    np.testing.assert_allclose(single(to_fixed(vectors)), vectors, atol=2e-5)


@pytest.mark.skipif(find_spec("rabitqlib") is None, reason="extra `graph`")
def test_a_graph_is_read_back_and_a_damaged_one_refused(many, tmp_path):
    graph, paths = Graph.build(many), (tmp_path / "a.graph", tmp_path / "a.axes.npy")
    graph.save(paths)
    queries = clustered(5, 64, seed=1)
    np.testing.assert_array_equal(Graph.load(paths, many).find(queries, 20), graph.find(queries, 20))
    paths[0].write_bytes(paths[0].read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read"):
        Graph.load(paths, many)


@pytest.mark.skipif(find_spec("rabitqlib") is None, reason="extra `graph`")
def test_candidates_that_cannot_be_hits_are_left(monkeypatch):
    monkeypatch.setattr(segment_module, "BRUTE_FORCE_BELOW", 3000)
    vectors = to_fixed(clustered(3000, 64, noise=0.1))
    segment, queries = Segment(vectors, Graph.build), clustered(40, 64, seed=1)
    expected, read = segment.search(queries, 10), []
    whole = segment.vectors

    class Counted:
        dtype, shape = whole.dtype, whole.shape

        def __len__(self):
            return len(whole)

        def __getitem__(self, rows):
            read.append(len(rows))
            return whole[rows]

    segment.vectors = Counted()
    for place, query in enumerate(queries):
        np.testing.assert_array_equal(segment.search(query[None], 10)[0][0], expected[0][place])
    assert sum(read) < 0.8 * len(queries) * segment.candidates.least
    monkeypatch.setattr(segment_module, "SLACK", np.inf)
    np.testing.assert_array_equal(segment.search(queries, 10)[0], expected[0])


@pytest.mark.skipif(find_spec("rabitqlib") is None, reason="extra `graph`")
def test_walks_are_longer_where_many_vectors_have_a_high_dimension(monkeypatch):
    rng = np.random.default_rng(0)
    flat, full = rng.normal(size=(3000, 3)) @ rng.normal(size=(3, 64)), rng.normal(size=(3000, 64))
    lengths = [Graph.build(unit(own).astype(np.float32))._visited for own in (flat, full)]
    monkeypatch.setattr(graph_module, "FEW", 300)
    lengths += [Graph.build(unit(own).astype(np.float32))._visited for own in (flat, full)]
    assert lengths[:3] == [2, 2, 2] and lengths[3] == pytest.approx(2 * 10**0.6)


def test_without_libraries_all_are_compared(many, monkeypatch):
    monkeypatch.setattr(segment_module, "scann", lambda: None)
    monkeypatch.setattr(segment_module, "find_spec", lambda _: None)
    assert build_candidates(many) is None
    queries = clustered(5, 64, seed=1)
    np.testing.assert_array_equal(Segment(many).search(queries, 5)[0], exact(many, queries, 5))


def test_the_intrinsic_dimension_of_a_plane_and_of_noise():
    rng = np.random.default_rng(0)
    flat, full = rng.normal(size=(3000, 3)) @ rng.normal(size=(3, 64)), rng.normal(size=(3000, 64))
    dimensions = [intrinsic_dimension(unit(own).astype(np.float32)) for own in (flat, full)]
    assert 1.5 < dimensions[0] < 2.8 and dimensions[1] > 15


def test_components_keep_inner_products():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 40)) * np.geomspace(1, 0.001, 40) @ np.linalg.qr(rng.normal(size=(40, 40)))[0]
    axes = principal_axes(vectors.astype(np.float32), 20)
    own = project(vectors.astype(np.float32), axes)
    np.testing.assert_allclose(own @ own.T, vectors @ vectors.T, atol=5e-2)


def test_segments_are_searched_as_one():
    vectors, queries = clustered(300, 16), clustered(7, 16, seed=1)
    order = np.random.default_rng(0).permutation(300)
    first, second = order[:200].copy(), order[200:].copy()
    parts = [(Segment(vectors[first]), first.copy()), (Segment(vectors[second]), second.copy())]
    parts[0][1][:50] = -1  # are gone
    left = np.setdiff1d(np.arange(300), first[:50])
    rows, cosine = Segments(parts).search(queries, 10)
    np.testing.assert_array_equal(rows, left[exact(vectors[left], queries, 10)])
    np.testing.assert_allclose(cosine, np.take_along_axis(queries @ vectors.T, rows, 1), atol=1e-6)
    allowed = np.zeros(300, bool)
    allowed[left[:4]] = True
    rows, cosine = Segments(parts).search(queries, 10, allowed)
    assert [set(row) - {-1} for row in rows.tolist()] == [set(left[:4].tolist())] * 7
    assert np.isneginf(cosine[:, 4:]).all()
    all_cosines = Segments(parts).cosines(queries, 300)
    np.testing.assert_allclose(all_cosines[:, left], queries @ vectors[left].T, atol=1e-6)
    assert np.isneginf(all_cosines[:, first[:50]]).all()
