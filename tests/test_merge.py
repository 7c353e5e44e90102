"""Merges: which parents, with which coefficients, whatever their order of units and whichever entries were kept."""

import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint
from wsrl.comparison.masked_merge import find_masked
from wsrl.comparison.merge import find_merge
from wsrl.comparison.relation import Kind
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

SHAPES = {"0.weight": (64, 32), "0.bias": (64,), "1.weight": (48, 64), "1.bias": (48,), "2.weight": (10, 48)}
Tensors = dict[str, np.ndarray]


def draw(seed: int, size: float = 1.0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {n: (size * rng.standard_normal(shape)).astype(np.float32) for n, shape in SHAPES.items()}


BASE = draw(0)
CHANGES = [draw(1, 0.1), draw(2, 0.1), draw(3, 0.1)]


def added(change: Tensors, scale: float = 1.0) -> Tensors:
    return {n: (BASE[n] + scale * change[n]).astype(np.float32) for n in BASE}


def parents(count: int) -> list[Checkpoint]:
    own = [Checkpoint(f"tuned {i}", added(change), {}) for i, change in enumerate(CHANGES[:count])]
    return [*own, Checkpoint("base", BASE, {})]


def dropped(weights: tuple[float, ...], share: float) -> Tensors:
    """DARE: entries are dropped at random, and the others scaled up."""
    rng = np.random.default_rng(4)
    kept = [{n: c[n] * (rng.random(c[n].shape) >= share) / (1 - share) for n in c} for c in CHANGES]
    return added({n: np.tensordot(weights, [own[n] for own in kept[: len(weights)]], 1) for n in BASE})


def trimmed(count: int, share: float, scale: float) -> Tensors:
    """TIES: the largest changes are kept, and the mean is taken of those of the sign that has more weight."""
    change = {}
    for n in BASE:
        own = np.stack([c[n] for c in CHANGES[:count]])
        least = np.quantile(np.abs(own).reshape(count, -1), 1 - share, axis=1)
        own = np.where(np.abs(own) >= least.reshape(-1, *(1,) * BASE[n].ndim), own, 0)
        agreeing = (np.sign(own) == np.sign(own.sum(0))) & (own != 0)
        change[n] = (own * agreeing).sum(0) / np.maximum(agreeing.sum(0), 1)
    return added(change, scale)


@pytest.mark.parametrize(("weights", "share"), [((0.5, 0.5), 0.5), ((0.6, -0.3), 0.9), ((0.4, 0.3, 0.3), 0.7)])
def test_entries_that_were_dropped_at_random(weights, share):
    relation = find_merge(Checkpoint("merged", dropped(weights, share), {}), parents(len(weights)))
    assert relation.kind is Kind.MERGE and relation.derived == "a"
    found = [relation.coefficients[f"tuned {i}"] for i in range(len(weights))]
    assert np.allclose(found, weights, atol=0.03)  # as exact as the share of so few entries
    assert np.isclose(relation.coefficients["base"], 1 - sum(found), atol=1e-3)
    assert "explain 100 % of the entries" in relation.reasons[1] and "at random" in relation.reasons[2]


@pytest.mark.parametrize(("count", "share", "scale"), [(2, 0.2, 1.0), (2, 0.5, 0.7), (3, 0.3, 1.0)])
def test_the_largest_changes_that_agree_in_sign(count, share, scale):
    relation = find_merge(Checkpoint("merged", trimmed(count, share, scale), {}), parents(count))
    assert relation.kind is Kind.MERGE and "as by TIES" in relation.reasons[1]
    assert np.allclose([relation.coefficients[f"tuned {i}"] for i in range(count)], scale, atol=0.01)


@pytest.mark.parametrize("merged", ["linear", "dropped"])
def test_parents_may_stand_in_another_order(merged):
    linear = {n: (0.7 * CHANGES[0][n] + 0.4 * CHANGES[1][n]).astype(np.float32) for n in BASE}
    tensors = added(linear) if merged == "linear" else dropped((0.7, 0.4), 0.5)
    moved = [
        Checkpoint(own.path, permuted({n: np.asarray(t) for n, t in own.tensors.items()}, infer_wiring(own), 7 + i), {})
        for i, own in enumerate(parents(2))
    ]
    relation = find_merge(Checkpoint("merged", tensors, {}), moved)
    assert relation.kind is Kind.MERGE
    assert np.allclose(list(relation.coefficients.values()), (0.7, 0.4, -0.1), atol=0.03)


def test_what_is_no_merge_of_the_parents():
    child = added({n: CHANGES[0][n] * 0.5 + draw(9, 0.05)[n] for n in BASE})
    zeroed = {n: np.where(np.abs(t) < 0.5, 0, t) for n, t in BASE.items()}
    for tensors in (child, zeroed, draw(10), dropped((0, 0, 1), 0.5)):
        relation = find_merge(Checkpoint("merged", tensors, {}), parents(2))
        assert relation.kind is Kind.UNKNOWN and relation.derived is None


def test_what_the_parents_do_not_have_is_told():
    mixed = added({n: 0.7 * CHANGES[0][n] + 0.4 * CHANGES[1][n] for n in BASE})
    relation = find_merge(Checkpoint("merged", mixed, {}), parents(2))
    assert "no counterpart" not in " ".join(relation.reasons)
    head = np.random.default_rng(5).standard_normal((sum(t.size for t in mixed.values()), 1)).astype(np.float32)
    longer = find_merge(Checkpoint("merged", mixed | {"head.weight": head}, {}), parents(2))
    assert longer.kind is Kind.MERGE and longer.coefficients == relation.coefficients
    assert "1 tensors with 50 % of the entries have no counterpart in all parents" in longer.reasons[-1]


def test_one_parent_alone():
    copied = find_merge(Checkpoint("merged", added(CHANGES[1]), {}), parents(2))
    assert copied.kind is Kind.SAME_WEIGHTS and copied.related and copied.coefficients == {"tuned 1": 1.0}
    child = added({n: CHANGES[0][n] * 0.5 + draw(9, 0.05)[n] for n in BASE})
    assert find_merge(Checkpoint("merged", child, {}), parents(2)).related
    assert not find_merge(Checkpoint("merged", draw(10), {}), parents(2)).related
    many = [*parents(3), *(Checkpoint(f"other {i}", draw(20 + i), {}) for i in range(2))]
    assert "at most" in " ".join(find_merge(Checkpoint("merged", child, {}), many).limits)


def test_changes_within_rounding_explain_nothing():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(5000)
    entries = np.stack([base + 1e-7 * rng.standard_normal(5000) for _ in range(3)])
    assert find_masked(entries, ["float32"] * 3) is None
    assert find_masked(entries, ["bfloat16"] * 3) is None
