import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CASES, NAMES, SIZE, draw_network, logits, variables_of

from wsrl.program.network import canonical_network
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry, reorder_outputs

IMAGES = np.random.default_rng(0).normal(size=(8, SIZE, SIZE, 1)).astype(np.float32)


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_transformed_network_computes_the_same_logits(case):
    checkpoint, variables = draw_network(*case)
    program = read_program(checkpoint)
    for seed in range(3):
        other = random_symmetry(checkpoint, program.wiring, np.random.default_rng(seed))
        moved = [k for k, v in other.tensors.items() if not np.array_equal(v, checkpoint.tensors[k])]
        assert moved
        assert relative(logits(*case, variables_of(other), IMAGES), logits(*case, variables, IMAGES)) < 1e-5


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), case=st.sampled_from(CASES))
def test_canonical_form_removes_scales_and_signs(seed, case):
    checkpoint, _ = draw_network(*case)
    program = read_program(checkpoint)
    other = random_symmetry(checkpoint, program.wiring, np.random.default_rng(seed), permute=False)
    ours, theirs = (canonical_network(c, program) for c in (checkpoint, other))
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        for v, w in zip((*a.weights, a.bias), (*b.weights, b.bias), strict=True):
            if v is not None:
                np.testing.assert_allclose(w, v, rtol=1e-4, atol=1e-5 * np.abs(v).max() + 1e-12)


def test_dead_and_tiny_units_stay_finite():
    checkpoint, _ = draw_network("mlp", 0)
    tensors = {k: v.copy() for k, v in checkpoint.tensors.items()}
    tensors["params/Dense_0/kernel"][:, 0] = 0.0
    tensors["params/Dense_0/bias"][0] = 0.0
    tensors["params/Dense_0/kernel"][:, 1] *= 1e-15
    tensors["params/Dense_0/bias"][1] *= 1e-15
    broken = type(checkpoint)(checkpoint.path, tensors, checkpoint.metadata)
    for layer in canonical_network(broken, read_program(broken)).layers:
        assert all(np.isfinite(w).all() for w in (*layer.weights, layer.bias) if w is not None)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_reordered_outputs_are_reordered_logits(case):
    checkpoint, variables = draw_network(*case)
    order = np.array([3, 1, 4, 0, 2])
    other = reorder_outputs(checkpoint, read_program(checkpoint).wiring, order)
    ours = logits(*case, variables, IMAGES)
    np.testing.assert_allclose(logits(*case, variables_of(other), IMAGES), ours[:, order], rtol=1e-5, atol=1e-6)
