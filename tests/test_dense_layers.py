"""Networks in NumPy, straight from their checkpoints, against what Flax and the sweep in JAX compute."""

import jax.numpy as jnp
import numpy as np
import pytest
from networks import CASES, NAMES, SIZE, draw_network, logits
from test_pooling import CASES as POOLINGS
from test_pooling import IMAGES as POOLED_IMAGES
from test_pooling import network as pooled_network

from wsrl.encoder.dense_activations import FUNCTIONS
from wsrl.encoder.dense_layers import dense_layers
from wsrl.encoder.dense_sweep import Inputs, Trace, sweep_network
from wsrl.encoder.sweep import FUNCTIONS as SWEPT
from wsrl.program.layers import ACTIVATIONS
from wsrl.program.network import read_network
from wsrl.program.read import read_program

IMAGES = np.random.default_rng(0).normal(size=(3, SIZE, SIZE, 1)).astype(np.float32)


def answers(checkpoint, program, images):
    return sweep_network(dense_layers(read_network(checkpoint, program)), Inputs(images), None, gradients=False)[0].T


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_outputs_are_those_of_flax(case):
    checkpoint, variables = draw_network(*case)
    found = answers(checkpoint, read_program(checkpoint), IMAGES)
    np.testing.assert_allclose(found, logits(*case, variables, IMAGES), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", POOLINGS)
def test_windows_are_pooled_as_in_flax(case):
    program, checkpoint, apply = pooled_network(*case)
    found = answers(checkpoint, program, POOLED_IMAGES)
    np.testing.assert_allclose(found, apply(POOLED_IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_the_sweep(name):
    values = np.linspace(-5, 5, 101, dtype=np.float32)
    found = FUNCTIONS[name][0](values, out=np.empty_like(values))
    np.testing.assert_allclose(found, SWEPT[name](jnp.asarray(values)), atol=1e-6)


def test_adjusted_states_are_gone_on_with():
    checkpoint, _ = draw_network("mlp", 0)
    network = dense_layers(read_network(checkpoint, read_program(checkpoint)))
    seen = []
    trace = Trace(network, Inputs(IMAGES), slice(1, 3), adjust=lambda i, state: seen.append(i) or np.zeros_like(state))
    assert seen == list(range(1, len(network))) and trace.states[-1].shape[3] == 2
    assert not trace.states[-1].any()
