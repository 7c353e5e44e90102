import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.encoder.accuracy import BLURS, LARGEST, LEVELS, SIGNS, accuracy_signs, predicted_accuracy

NETWORKS, CLASSES, PROBES, SIDE = 3, 4, 12, 6
INPUTS = np.random.default_rng(0).normal(size=(PROBES, SIDE, SIDE, 1)).astype(np.float32)
ENTROPY = slice(0, len(LEVELS))
MARGIN = slice(len(LEVELS), 2 * len(LEVELS))
BLURRED = slice(MARGIN.stop, MARGIN.stop + len(BLURS))
SPREAD, LINEAR, EVEN, CONSTANT, DIRECTIONS, TEMPLATE_DIRECTIONS = range(BLURRED.stop, SIGNS)


def answers(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(NETWORKS, CLASSES, PROBES)).astype(np.float32)
    return logits, rng.normal(size=(NETWORKS, CLASSES, SIDE**2)).astype(np.float32)


def signs(logits, templates, classes=CLASSES):
    mask = np.broadcast_to((np.arange(logits.shape[1]) < classes).astype(np.float32), logits.shape[:2])
    return np.asarray(jax.jit(accuracy_signs)(logits, templates, mask, INPUTS))


@settings(max_examples=20)
@given(order=st.permutations(range(CLASSES)), seed=st.integers(0, 99))
def test_order_of_the_classes_and_padding_have_no_part(order, seed):
    logits, templates = answers(seed)
    found = signs(logits, templates)
    assert found.shape == (NETWORKS, SIGNS)
    np.testing.assert_allclose(signs(logits[:, order], templates[:, order]), found, rtol=1e-4, atol=1e-4)
    padded = [np.pad(values, [(0, 0), (0, 2), (0, 0)]) for values in (logits, templates)]
    np.testing.assert_allclose(signs(*padded), found, rtol=1e-4, atol=1e-4)


@settings(max_examples=20)
@given(scale=st.floats(0.1, 10.0))
def test_scale_of_the_logits_tells_nothing_but_how_sure_a_network_is(scale):
    logits, templates = answers()
    scaled, found = signs(logits * np.float32(scale), templates), signs(logits, templates)
    np.testing.assert_allclose(scaled[:, ENTROPY.stop :], found[:, ENTROPY.stop :], rtol=1e-3, atol=1e-3)
    surer = scaled[:, ENTROPY] - found[:, ENTROPY]
    assert (surer * (scale - 1) <= 1e-5).all()


def test_undecided_and_sure_networks():
    logits, templates = answers()
    undecided = signs(np.zeros_like(logits), templates)
    np.testing.assert_allclose(undecided[:, ENTROPY], 1, atol=1e-4)
    np.testing.assert_allclose(undecided[:, MARGIN], 0, atol=1e-4)
    sure = signs(100 * np.eye(CLASSES, dtype=np.float32)[np.arange(PROBES) % CLASSES].T[None], templates[:1])
    np.testing.assert_allclose(sure[:, ENTROPY], 0, atol=1e-3)
    assert sure[0, EVEN] == pytest.approx(1, abs=1e-3)  # every class has as many inputs
    assert sure[0, CONSTANT] == pytest.approx(0, abs=1e-3)


def test_a_linear_network_answers_as_its_templates():
    _, templates = answers()
    linear = np.einsum("ncx,px->ncp", templates, INPUTS.reshape(PROBES, -1)) + 3
    np.testing.assert_allclose(signs(linear, templates)[:, LINEAR], 1, atol=1e-4)
    np.testing.assert_allclose(signs(-linear, templates)[:, LINEAR], -1, atol=1e-4)


def test_smooth_templates_keep_their_energy_and_points_do_not():
    logits, _ = answers()
    slope = np.linspace(-1, 1, SIDE, dtype=np.float32)
    smooth = np.broadcast_to(np.add.outer(slope, 2 * slope).ravel(), (CLASSES, SIDE**2))
    point = np.zeros_like(smooth)
    point[:, 14] = 1
    by_class = np.array([1, -1, 2, -2], np.float32)[:, None]
    found = signs(logits[:2], np.stack([smooth * by_class, point * by_class]))
    assert (found[0, BLURRED][:2] > found[1, BLURRED][:2] + 1).all()
    assert found[0, SPREAD] > found[1, SPREAD] + 1
    np.testing.assert_allclose(found[:, TEMPLATE_DIRECTIONS], np.log(CLASSES), atol=1e-3)  # all in one direction


@pytest.mark.parametrize("value", [0.0, 1e15, -1e15])
@pytest.mark.parametrize("classes", [0, 1, CLASSES])
def test_whatever_a_network_answers_its_signs_are_numbers(value, classes):
    logits, templates = (np.full_like(values, value) for values in answers())
    logits[0, 0], templates[0, 0, 0] = 1e15, -1e15
    assert np.isfinite(signs(logits, templates, classes)).all()


def test_an_odd_network_is_told_no_odder_accuracy_than_the_fit_knows():
    features = jnp.array([[0.5], [1e9]])
    params = {"mean": jnp.zeros(1), "deviation": jnp.ones(1), "kernel": jnp.full(1, 0.1), "bias": jnp.array(0.2)}
    np.testing.assert_allclose(predicted_accuracy(params, features), [0.25, 0.2 + 0.1 * LARGEST], rtol=1e-6)
    params["kernel"] *= -10
    assert np.asarray(predicted_accuracy(params, features))[1] == 0
