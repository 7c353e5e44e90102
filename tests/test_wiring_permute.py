"""Networks written out in NumPy compute the same under random members of their symmetries."""

from dataclasses import replace

import numpy as np
import pytest

from tests import claim_networks
from wsrl.wiring.permute import mixed, permuted, rescaled

X = np.random.default_rng(0).standard_normal((4, 7))


def load(network):
    checkpoint, claim = network()
    return {name: np.array(t, np.float64) for name, t in checkpoint.tensors.items()}, claim


def odd_outputs(t):
    hidden = np.tanh(X @ t["1.weight"].T + t["1.bias"])
    return np.tanh(hidden @ t["2.weight"].T + t["2.bias"]) @ t["3.weight"].T + t["3.bias"]


def lstm_outputs(t, size=5):
    h = c = np.zeros((4, size))
    for step in np.random.default_rng(1).standard_normal((3, 4, 4)):
        gates = step @ t["lstm.weight_ih_l0"].T + h @ t["lstm.weight_hh_l0"].T
        i, f, g, o = np.split(gates + t["lstm.bias_ih_l0"] + t["lstm.bias_hh_l0"], 4, axis=1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
    return h @ t["out.weight"].T + t["out.bias"]


@pytest.mark.parametrize("move", [permuted, rescaled])
def test_units_may_be_moved(move):
    tensors, claim = load(claim_networks.odd)
    moved = move(tensors, claim, seed=1)
    assert not np.array_equal(moved["2.weight"], tensors["2.weight"])
    np.testing.assert_allclose(odd_outputs(moved), odd_outputs(tensors), rtol=1e-12)


def test_units_keep_their_gates():
    tensors, claim = load(claim_networks.recurrent)
    moved = permuted(tensors, claim, seed=1)
    np.testing.assert_allclose(lstm_outputs(moved), lstm_outputs(tensors), rtol=1e-12)


def test_no_unit_keeps_its_place():
    tensors, claim = load(claim_networks.odd)
    for seed in range(20):
        moved = permuted(tensors, claim, seed)
        assert not (moved["1.bias"] == tensors["1.bias"]).any()
        assert np.array_equal(np.sort(moved["1.bias"]), np.sort(tensors["1.bias"]))


def test_positive_factors_cancel_along_segments():
    tensors, claim = load(claim_networks.convolutional)
    moved = rescaled(tensors, claim, seed=1)

    def path(t):  # from the maps of a convolution to those that are flattened, a group's 9 places beside each other
        return np.einsum("efxy,neg->nfxyg", t["4.weight"], t["5.weight"][:, :36].reshape(9, 4, 9)) / norm(t)

    def norm(t):
        return t["5.bias"].reshape(9, 1, 1, 1, 1)

    assert not np.allclose(moved["4.weight"], tensors["4.weight"])
    np.testing.assert_allclose(path(moved), path(tensors), rtol=1e-12)
    assert np.array_equal(moved["1.running_var"], tensors["1.running_var"])  # power 0


@pytest.mark.parametrize("name", ["transformer", "grouped queries", "fused", "flax attention", "LoRA"])
def test_heads_keep_their_products(name):
    tensors, claim = load(claim_networks.NETWORKS[name])
    moved = mixed(tensors, claim, seed=1)

    def matrix(t, part, heads, repeat, dim):
        last = part.axis + 1
        while np.prod(t[part.tensor].shape[part.axis : last]) < part.stop:
            last += 1
        before = int(np.prod(t[part.tensor].shape[: part.axis]))
        flat = t[part.tensor].reshape(before, -1, int(np.prod(t[part.tensor].shape[last:])))[:, part.start : part.stop]
        return flat.reshape(before, heads, repeat, dim, -1)

    for p in claim.products:
        pairs = [
            (left, right)
            for left in (p.left, p.left_bias)
            for right in (p.right, p.right_bias)
            if left is not None and right is not None
        ]
        for left, right in pairs:
            before, after = (
                np.einsum(
                    "ahrdb,chsde->habrcse",
                    matrix(t, left, p.heads, 1, p.dim),
                    matrix(t, right, p.heads, p.repeat, p.dim),
                )
                for t in (tensors, moved)
            )
            np.testing.assert_allclose(after, before, atol=1e-12)
        assert not np.allclose(moved[p.left.tensor], tensors[p.left.tensor])


def test_parts_of_a_claim_move_alone():
    tensors, claim = load(claim_networks.odd)
    whole, part = permuted(tensors, claim, 3), permuted(tensors, claim, 3, ["c"])
    assert np.array_equal(part["1.bias"], tensors["1.bias"]) and np.array_equal(part["2.bias"], whole["2.bias"])
    part = rescaled(tensors, claim, 3, ["c"])
    assert np.array_equal(part["1.bias"], tensors["1.bias"])
    assert np.array_equal(part["2.bias"], rescaled(tensors, claim, 3)["2.bias"])
    tensors, claim = load(claim_networks.fused)
    part, whole = mixed(tensors, claim, 3, claim.products[1:]), mixed(tensors, claim, 3)
    first, second = claim.products
    assert np.array_equal(part[first.right.tensor], tensors[first.right.tensor])
    rows = slice(second.left.start, second.left.stop)
    tensor, axis = second.left.tensor, second.left.axis
    assert np.array_equal(np.moveaxis(part[tensor], axis, 0)[rows], np.moveaxis(whole[tensor], axis, 0)[rows])


def test_what_is_fixed_stays():
    tensors, claim = load(claim_networks.odd)
    fixed = replace(claim, groups={k: replace(g, permutable=False, scale="none") for k, g in claim.groups.items()})
    for move in (permuted, rescaled, mixed):
        assert all(np.array_equal(t, tensors[name]) for name, t in move(tensors, fixed, 0).items())
