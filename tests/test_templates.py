"""Templates: gradients of the centered logits with respect to the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import MAIN, SIZE, draw_network

from wsrl.encoder.sweep import class_gradients
from wsrl.encoder.templates import blurred, fit_gradients
from wsrl.graph.batching import make_batch
from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.plans import make_plan, profile
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry, reorder_outputs

IMAGES = np.random.default_rng(1).normal(size=(4, SIZE, SIZE, 1)).astype(np.float32)
CASES = [("mlp", 1), ("cnn_flatten", 0), ("vit", 2)]
ORDER = np.array([3, 1, 4, 0, 2])


def batch_gradients(checkpoints):
    """Gradients of networks of one architecture in a batch with room for one more."""
    graphs = [checkpoint_graph(checkpoint, 16) for checkpoint in checkpoints]
    batch = make_batch(graphs, make_plan(profile(graphs[0]), len(graphs) + 1, 16))
    return np.asarray(jax.jit(class_gradients)(batch, IMAGES.reshape(2, 2, SIZE, SIZE, 1)))


def expected_gradients(case, variables):
    """[classes, rows] by the Flax module."""
    model = MAIN[case[0]].variants[case[1]]

    def centered(image):
        logits = model.apply(variables, image[None])[0]
        return logits - logits.mean()

    found = jax.jit(lambda images: jax.vmap(jax.jacrev(centered))(images).mean(0))(IMAGES)
    return np.asarray(found).reshape(len(found), -1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_gradients_are_those_of_the_network_in_every_order_and_form_of_it(case):
    (one, variables), (other, other_variables) = (draw_network(*case, seed) for seed in (0, 1))
    wiring, rng = read_program(one).wiring, np.random.default_rng(2)
    same, reordered = random_symmetry(one, wiring, rng), reorder_outputs(one, wiring, ORDER)
    found = batch_gradients([one, other, same, reordered])
    expected = expected_gradients(case, variables)
    wanted = [expected, expected_gradients(case, other_variables), expected, expected[ORDER]]
    for own, gradients in zip(found, wanted, strict=False):
        np.testing.assert_allclose(own[:5], gradients, atol=1e-5 * np.abs(gradients).max())
    assert not found[:, 5:].any() and not found[4:].any()
    assert np.abs(expected).max() > 1e-3


def test_gradients_of_channels_are_added_and_resized():
    gradients = jnp.arange(2 * 3 * 12, dtype=jnp.float32).reshape(1, 2, 36)  # three channels of 3 x 4
    summed = fit_gradients(gradients, (3, 4, 3), (3, 4))
    np.testing.assert_array_equal(summed, gradients.reshape(1, 2, 3, 3, 4).sum(2))
    assert fit_gradients(gradients, (3, 4, 3), (6, 8)).shape == (1, 2, 6, 8)


def test_blur_keeps_a_grey_image_and_spreads_a_point():
    images = jnp.stack([jnp.ones((7, 9)), jnp.zeros((7, 9)).at[3, 4].set(1.0)])[None]
    grey, point = np.asarray(blurred(images, 0.8))[0]
    np.testing.assert_allclose(grey, 1.0, rtol=1e-6)
    np.testing.assert_allclose(point, point[::-1, ::-1], atol=1e-7)
    assert point.argmax() == 3 * 9 + 4 and point[3, 4] > point[3, 5] > point[3, 6] > 0
    assert point[3, 5] / point[3, 4] == pytest.approx(np.exp(-0.5 / 0.8**2), rel=1e-3)
    np.testing.assert_allclose(blurred(images, 0.0), images, atol=1e-6)
