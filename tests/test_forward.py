"""One network on images in NumPy, against what Flax and the sweep compute."""

import jax.numpy as jnp
import numpy as np
import pytest
from networks import CASES, NAMES, SIZE, draw_network, logits
from test_pooling import CASES as POOLINGS
from test_pooling import IMAGES as POOLED_IMAGES
from test_pooling import network as pooled_network

from wsrl.encoder.forward import FUNCTIONS, run
from wsrl.encoder.sweep import FUNCTIONS as SWEPT
from wsrl.program.layers import ACTIVATIONS
from wsrl.program.network import read_network
from wsrl.program.read import read_program

IMAGES = np.random.default_rng(0).normal(size=(3, SIZE, SIZE, 1)).astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_outputs_are_those_of_flax(case):
    checkpoint, variables = draw_network(*case)
    *_, output = run(read_network(checkpoint, read_program(checkpoint)), IMAGES)
    np.testing.assert_allclose(output.after[:, 0, 0], logits(*case, variables, IMAGES), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", POOLINGS)
def test_windows_are_pooled_as_in_flax(case):
    program, checkpoint, apply = pooled_network(*case)
    *_, output = run(read_network(checkpoint, program), POOLED_IMAGES)
    np.testing.assert_allclose(output.after[:, 0, 0], apply(POOLED_IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_the_sweep(name):
    values = np.linspace(-5, 5, 101, dtype=np.float32)
    np.testing.assert_allclose(FUNCTIONS[name](values), SWEPT[name](jnp.asarray(values)), atol=1e-6)


def test_adjusted_maps_are_gone_on_with():
    checkpoint, _ = draw_network("mlp", 0)
    network = read_network(checkpoint, read_program(checkpoint))
    *_, output = run(network, IMAGES, lambda layer, maps: np.zeros_like(maps))
    assert (output.before == 0).all()
