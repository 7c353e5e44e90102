from dataclasses import replace

import numpy as np
import pytest
from claim_networks import (
    NETWORKS,
    convolutional,
    flax_attention,
    fused,
    lora,
    mix_products,
    odd,
    permute,
    rescale,
    rescale_norm,
    transformer,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SIZE, draw_network, logits, variables_of

from wsrl.canonical import canonicalize
from wsrl.canonical.norms import find_folds
from wsrl.canonical.products import Part, balancing, moments, parts_of
from wsrl.checkpoint import Checkpoint
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry
from wsrl.wiring.wiring import Product, Slice

IMAGES = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 1)).astype(np.float32)


def whole(checkpoint):
    return Checkpoint(checkpoint.path, {n: np.asarray(t) for n, t in checkpoint.tensors.items()}, checkpoint.metadata)


def canonical(checkpoint, claim):
    return whole(canonicalize(checkpoint, claim))


def difference(a, b):
    return max(np.abs(a.tensors[n] - b.tensors[n]).max() / max(np.abs(b.tensors[n]).max(), 1e-6) for n in b.tensors)


def attention(x, query, key, value, output, heads, dim, repeat):
    """Attention of tokens [n, width] in float64, each of the four a pair of weight [out, in] and bias."""

    def project(pair, copies):
        return (x @ pair[0].T + pair[1]).reshape(len(x), heads, copies, dim)

    q, k, v = project(query, repeat), project(key, 1), project(value, 1)
    scores = np.einsum("xhrd,yhsd->hrxy", q, k) / np.sqrt(dim)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("hrxy,yhsd->xhrd", weights, v).reshape(len(x), -1)
    return mixed @ output[0].T + output[1]


def layer(checkpoint, path):
    tensors = checkpoint.tensors
    return tensors[f"{path}.weight"].astype(np.float64), tensors[f"{path}.bias"].astype(np.float64)


def block(checkpoint, x, heads, dim, repeat=1):
    q, k, v, o = (layer(checkpoint, f"layers.0.attn.{name}") for name in "qkvo")
    return attention(x, q, k, v, o, heads, dim, repeat)


@pytest.mark.parametrize("repeat", [1, 2])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_attention_computes_the_same(repeat, seed):
    checkpoint, claim = transformer(seed % 7, repeat=repeat)
    x = np.random.default_rng(seed).standard_normal((5, 16))
    mixed = mix_products(checkpoint, claim, seed)
    ours, theirs, expected = (
        block(c, x, 3, 4, repeat) for c in (canonical(checkpoint, claim), canonical(mixed, claim), checkpoint)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(theirs, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("network", [transformer, fused, flax_attention, lora])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_products_become_unique(network, seed):
    checkpoint, claim = network(0)
    assert difference(canonical(mix_products(checkpoint, claim, seed), claim), canonical(checkpoint, claim)) < 1e-3


@pytest.mark.parametrize("network", [transformer, fused, convolutional, odd])
def test_permutations_pass_through(network):
    checkpoint, claim = network(3)
    ours, theirs = permute(canonical(checkpoint, claim), claim, 5), canonical(permute(checkpoint, claim, 5), claim)
    assert difference(theirs, ours) < 1e-4


def test_factors_are_balanced_and_singular_values_descend():
    checkpoint, claim = transformer(1)
    found = canonical(checkpoint, claim).tensors
    value, bias, output = (found[f"layers.0.attn.{n}"] for n in ("v.weight", "v.bias", "o.weight"))
    left = np.concatenate([value, bias[:, None]], 1).reshape(3, 4, -1)
    right = output.T.reshape(3, 4, -1)
    for factor in (left, right):
        gram = factor @ factor.transpose(0, 2, 1)
        squares = np.diagonal(gram, axis1=1, axis2=2)
        np.testing.assert_allclose(gram, squares[:, None] * np.eye(4), atol=1e-5)
        assert (np.diff(squares, axis=1) < 0).all()
    np.testing.assert_allclose((left**2).sum(-1), (right**2).sum(-1), rtol=1e-4)


def product_of(left, right):
    shapes = {"l": left.shape, "r": right.shape}
    product = Product(Slice("l", 0, 0, len(left)), Slice("r", 0, 0, len(right)), 2, 3)
    return parts_of(product, shapes)


@pytest.mark.parametrize("case", ["zero", "zero left", "deficient", "degenerate", "huge", "tiny"])
def test_odd_heads_keep_their_product(case):
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 6, 8)).astype(np.float32)
    match case:
        case "zero":
            left[:3], right[:3] = 0, 0
        case "zero left":
            left[:] = 0
        case "deficient":
            left[1], right[4] = 2 * left[0], 0
        case "degenerate":
            left, right = (np.linalg.qr(rng.standard_normal((8, 6)))[0].T.astype(np.float32) for _ in range(2))
        case "huge":
            left *= np.float32(1e15)
        case "tiny":
            left *= np.float32(1e-18)
            right *= np.float32(1e-18)
    tensors = {"l": left, "r": right}
    sides = product_of(left, right)
    matrices = balancing(*(moments(tensors, parts, 2) for parts in sides))
    heads = [x.astype(np.float64).reshape(2, 3, 8).transpose(0, 2, 1) for x in (left, right)]
    balanced = [h @ m for h, m in zip(heads, matrices, strict=True)]
    expected = heads[0] @ heads[1].transpose(0, 2, 1)
    assert all(np.isfinite(m).all() for m in matrices)
    found = balanced[0] @ balanced[1].transpose(0, 2, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max() + 1e-300)


def test_any_rows_can_be_read():
    for network in NETWORKS.values():
        checkpoint, claim = network(2)
        lazy = canonicalize(checkpoint, claim)
        for name, tensor in whole(lazy).tensors.items():
            for start, stop in ((0, 1), (1, 3), (len(tensor) // 2, len(tensor))):
                rows = np.asarray(lazy.tensors[name])[start:stop]
                read = lazy.tensors[name]
                read = read[start:stop] if isinstance(read, np.ndarray) else read.rows(start, min(stop, len(tensor)))
                np.testing.assert_allclose(read, rows, rtol=1e-5, atol=1e-7)


def test_a_slice_may_go_on_over_later_axes():
    part = Part(Slice("t", 1, 0, 6), (4, 2, 3), 1, 3)
    rows = np.arange(24.0).reshape(4, 2, 3)
    heads, first = part.heads(rows, 0)
    assert heads.shape == (4, 2, 1, 3, 1) and first == 0
    np.testing.assert_array_equal(heads[:, 1, 0, :, 0], rows[:, 1])


@pytest.mark.parametrize("case", [("mlp", 1), ("cnn_flatten", 0), ("resnet", 0), ("vit", 0)])
def test_zoo_networks_compute_the_same_and_lose_their_symmetries(case):
    checkpoint, variables = draw_network(*case)
    claim = read_program(checkpoint).wiring
    ours = canonical(checkpoint, claim)
    expected = logits(*case, variables, IMAGES)
    np.testing.assert_allclose(
        logits(*case, variables_of(ours), IMAGES), expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max()
    )
    moved = random_symmetry(checkpoint, claim, np.random.default_rng(1), permute=False)
    assert difference(canonical(moved, claim), ours) < 1e-5


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_scales_signs_and_statistics_are_removed(seed):
    for network in (convolutional, odd):
        checkpoint, claim = network(seed % 5)
        assert difference(canonical(rescale(checkpoint, claim, seed), claim), canonical(checkpoint, claim)) < 1e-5
    checkpoint, claim = convolutional(seed % 5)
    moved = rescale_norm(checkpoint, "0.weight", "0.bias", "1", seed, largest=8.0)
    assert difference(canonical(moved, claim), canonical(checkpoint, claim)) < 1e-5


def test_dead_units_stay():
    checkpoint, claim = convolutional()
    checkpoint.tensors["4.weight"][0] = 0
    checkpoint.tensors["4.bias"][0] = 0
    found = canonical(checkpoint, claim).tensors
    assert all(np.isfinite(t).all() for t in found.values())
    np.testing.assert_array_equal(found["4.weight"][0], 0)
    np.testing.assert_allclose(found["5.weight"][:, :9] != 0, True)


def test_norms_fold_into_the_weights_that_they_follow():
    checkpoint, _ = draw_network("resnet", 0)
    claim = read_program(checkpoint).wiring
    folds = {fold.weight: fold.fields["mean"] for fold in find_folds(claim)}
    assert len(folds) == 6
    for weight, mean in folds.items():
        assert mean == weight.replace("params", "batch_stats").replace("Conv", "BatchNorm").replace("kernel", "mean")


def test_norms_that_do_not_alone_read_one_layer_are_left_alone():
    _, wiring = convolutional()
    conv, norm, *others = wiring.operations
    assert len(find_folds(wiring)) == 1

    def folds(conv, norm, other):
        return find_folds(replace(wiring, operations=(conv, norm, other, *others[1:])))

    assert not folds(conv, norm, replace(others[0], inputs=(0, 1)))  # something else reads the layer
    assert not folds(conv, replace(norm, inputs=()), others[0])  # what the norm reads is not known
    assert not folds(conv, replace(norm, source="assumed"), others[0])
    assert not folds(replace(conv, type="attention"), norm, others[0])
