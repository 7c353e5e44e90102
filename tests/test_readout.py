import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.encoder import readout
from wsrl.encoder.readout import class_probabilities, standardized

CLASSES, PROBES, PIXELS = 6, 4, 3
second_order = jax.jit(readout.second_order, static_argnums=1)
class_responses = jax.jit(readout.class_responses, static_argnums=(3, 4))


def draw(seed, networks=2):
    """Logits and templates of networks whose last class does not exist, and their mask."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(networks, CLASSES, PROBES)).astype(np.float32)
    templates = rng.normal(size=(networks, CLASSES, PIXELS)).astype(np.float32)
    mask = np.ones((networks, CLASSES), np.float32)
    mask[:, -1] = 0
    return jnp.asarray(logits), jnp.asarray(templates * mask[:, :, None]), jnp.asarray(mask)


def class_map(groups, networks=2):
    """One at (class, new class); -1 leaves a class out."""
    found = np.zeros((networks, CLASSES, CLASSES), np.float32)
    for old, new in enumerate(groups):
        if new >= 0:
            found[:, old, new] = 1
    return jnp.asarray(found)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 5), smoothing=st.sampled_from([0.01, 0.1, 1.0]))
def test_second_order_keeps_inner_products_of_smoothed_projections(seed, rank, smoothing):
    x, y = np.random.default_rng(seed).normal(size=(2, 3, CLASSES, rank))
    first, second = (np.asarray(second_order(jnp.asarray(v, jnp.float32), smoothing)) for v in (x, y))
    assert first.shape == (3, rank * (rank + 1) // 2)

    def projection(one):
        one = one / np.linalg.norm(one)
        return one.T @ np.linalg.inv(one @ one.T + smoothing * np.eye(CLASSES)) @ one

    for a, b, found in zip(map(projection, x), map(projection, y), (first * second).sum(1), strict=True):
        assert found == pytest.approx((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)), abs=1e-4)


def test_second_order_turns_to_plain_sums_of_products_and_to_what_classes_span():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 4)).astype(np.float32)
    mixed = (np.diag([1.0, 2.0, 0.5]) @ np.linalg.qr(rng.normal(size=(3, 3)))[0] @ x).astype(np.float32)
    gram = np.einsum("cp,cq->pq", x[0], x[0])
    rows, columns = np.triu_indices(4)
    plain = gram[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))
    np.testing.assert_allclose(second_order(x, 1e4)[0], plain / np.linalg.norm(plain), atol=1e-3)
    np.testing.assert_allclose(second_order(x, 1e-3), second_order(mixed, 1e-3), atol=0.05)
    assert np.abs(second_order(x, 1e4) - second_order(mixed, 1e4)).max() > 0.2


def test_second_order_calls_no_library_that_may_wait_for_ever():
    assert "lapack" not in second_order.lower(jnp.zeros((2, CLASSES, 3)), 0.1).compile().as_text()


@pytest.mark.parametrize("smoothing", [0.1, 1e4])
def test_second_order_is_blind_to_order_and_to_empty_classes_and_finite_without_any(smoothing):
    x = np.random.default_rng(0).normal(size=(1, CLASSES, 3)).astype(np.float32)
    more = np.concatenate([x[:, ::-1], np.zeros((1, 2, 3), np.float32)], axis=1)
    np.testing.assert_allclose(second_order(jnp.asarray(x), smoothing), second_order(more, smoothing), atol=1e-5)
    assert not np.asarray(second_order(jnp.zeros((1, 4, 3)), smoothing)).any()


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), order=st.permutations(range(CLASSES)))
def test_responses_do_not_depend_on_the_order_of_the_output_neurons(seed, order):
    logits, templates, mask = draw(seed)
    groups = class_map([0, 1, 1, -1, 2, -1])
    order = np.array(order)
    found = class_responses(logits, templates, groups * mask[:, :, None], 0.5, 1.0)
    moved = (part[:, order] for part in (logits, templates, groups * mask[:, :, None]))
    np.testing.assert_allclose(class_responses(*moved, 0.5, 1.0), found, atol=1e-4)
    renamed = class_responses(logits, templates, (groups * mask[:, :, None])[:, :, order], 0.5, 1.0)
    np.testing.assert_allclose(renamed, np.asarray(found)[:, order], atol=1e-4)
    assert not np.asarray(found)[:, 3:].any()  # new classes that no class becomes


def test_parts_of_weight_zero_are_left_out():
    logits, templates, mask = draw(0)
    groups = class_map(range(CLASSES)) * mask[:, :, None]
    whole = np.asarray(class_responses(logits, templates, groups, 0.5, 2.0))
    assert whole.shape[2] == 2 * PROBES + PIXELS
    probability, evidence, template = np.split(whole, [PROBES, 2 * PROBES], axis=2)
    for weights, parts in (
        ((0.0, 0.0), [probability]),
        ((0.5, 0.0), [probability, evidence]),
        ((0.0, 2.0), [probability, template]),
    ):
        found = class_responses(logits, templates, groups, *weights)
        np.testing.assert_allclose(found, np.concatenate(parts, 2), atol=1e-6)
    for part, weight in ((probability, 1.0), (evidence, 0.5), (template, 2.0)):
        square = np.square(part).sum(1) / np.asarray(mask).sum(1)[:, None]
        np.testing.assert_allclose(square.mean(1), weight**2, rtol=1e-4)


def test_merged_classes_have_the_sum_of_probabilities_and_the_mean_of_templates():
    logits, templates, mask = draw(1)
    merged = class_map([0, 0, 1, 2, -1, -1]) * mask[:, :, None]
    kept = merged.sum(2)
    found = np.asarray(class_responses(logits, templates, merged, 0.0, 1.0))
    scaled = 1.6 * standardized(logits, kept)
    probability = np.asarray(class_probabilities(scaled, kept))
    np.testing.assert_allclose(probability[:, :4].sum(1), 1.0, rtol=1e-5)
    sums = np.stack([probability[:, :2].sum(1), probability[:, 2], probability[:, 3]], 1)
    means = np.stack([templates[:, :2].mean(1), templates[:, 2], templates[:, 3]], 1)
    for part, expected in ((found[:, :3, :PROBES], sums), (found[:, :3, PROBES:], means)):
        centered = expected - expected.mean(1, keepdims=True)
        scale = np.sqrt(np.square(centered).mean((1, 2), keepdims=True))
        np.testing.assert_allclose(part, centered / scale, atol=1e-4)


def test_how_sure_a_network_is_does_not_count():
    logits, templates, mask = draw(2)
    groups = class_map(range(CLASSES)) * mask[:, :, None]
    found = class_responses(logits, templates, groups, 0.5, 1.0)
    surer = class_responses(7 * logits + 3, 0.1 * templates, groups, 0.5, 1.0)
    np.testing.assert_allclose(surer, found, atol=1e-3)
