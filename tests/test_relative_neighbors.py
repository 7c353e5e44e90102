"""Children are scored against strangers, and by their neighbors."""

import numpy as np
import pytest

from wsrl.relative import neighbors
from wsrl.relative.metric import Metric
from wsrl.relative.neighbors import Gallery
from wsrl.relative.vector import Block

BLOCKS = [Block("product", str(i), slice(40 * i, 40 * i + 40)) for i in range(3)]
TASK = np.repeat(np.arange(8), 6)


def children(noise: float, seed: int = 0) -> np.ndarray:
    """Children of eight tasks; half of them lack the last block."""
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((8, 120))[TASK] + noise * rng.standard_normal((48, 120))).astype(np.float32)
    vectors[::2, BLOCKS[2].entries] = 0
    for block in BLOCKS:
        lengths = np.linalg.norm(vectors[:, block.entries], axis=1, keepdims=True)
        vectors[:, block.entries] /= np.maximum(lengths, 1e-9)
    return vectors


def precision(scores: np.ndarray) -> float:
    """Share of the task among the five best, mean over queries that are left out."""
    ranked = np.argsort(-scores + 1e9 * np.eye(len(scores)), axis=1)[:, :5]
    return float((TASK[ranked] == TASK[:, None]).mean())


def test_neighbors_settle_what_a_child_leaves_open():
    vectors = children(2.0)
    metric = Metric(vectors, BLOCKS)
    alone, asked = (
        np.stack([Gallery(vectors, metric, count).scores(vector, place) for place, vector in enumerate(vectors)])
        for count in (0, 4)
    )
    assert 0.3 < precision(alone) < precision(asked) - 0.05


@pytest.mark.parametrize("place", [0, 7, 30])
@pytest.mark.parametrize("shortlist", [10, 1000])
def test_a_query_is_left_out_of_all_neighborhoods(monkeypatch, place, shortlist):
    monkeypatch.setattr(neighbors, "SHORTLIST", shortlist)
    vectors = children(1.5)
    metric = Metric(vectors, BLOCKS)
    others = np.arange(len(vectors)) != place
    there = Gallery(vectors, metric).scores(vectors[place], place)[others]
    np.testing.assert_allclose(there, Gallery(vectors[others], metric).scores(vectors[place]), rtol=1e-4, atol=1e-5)


def test_strangers_of_all_kinds_score_alike():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((48, 120)).astype(np.float32)
    for block in BLOCKS:  # the second half moves along few directions, so that strangers meet by chance
        vectors[24:, block.entries] = rng.standard_normal((24, 3)) @ rng.standard_normal((3, 40))
    gallery = Gallery(vectors, Metric(vectors, BLOCKS), 0)
    scored = np.stack([gallery.scores(vector, place) for place, vector in enumerate(vectors)])
    plain = Metric(vectors, BLOCKS, cohort=0).similarities(vectors, vectors)
    off = ~np.eye(24, dtype=bool)
    ratios = [np.std(own[24:, 24:][off]) / np.std(own[:24, :24][off]) for own in (plain, scored)]
    assert ratios[0] > 3 and ratios[1] < 2


def test_few_children_are_compared_by_cosines():
    vectors = children(0.5)[:10]
    gallery = Gallery(vectors, Metric(vectors, BLOCKS))
    scores = gallery.scores(vectors[0], 0)
    assert scores[0] == pytest.approx(1) and np.abs(scores).max() <= 1 + 1e-5
    assert gallery.shown(np.array([-0.5, 0.5], np.float32)).tolist() == [0.0, 0.5]


def test_scores_are_shown_from_0_to_1():
    vectors = children(0.5)
    gallery = Gallery(vectors, Metric(vectors, BLOCKS))
    np.testing.assert_allclose(gallery.shown(np.array([-1, 3, 9], np.float32)), [0, 0.5, 0.75])
