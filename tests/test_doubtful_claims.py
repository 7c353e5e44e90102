"""What meets a group unseen: permuting what is claimed leaves the outputs of small networks as they were."""

import numpy as np
import pytest
from doubtful_networks import NETWORKS

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted


def random_tensors(shapes):
    rng = np.random.default_rng(2)
    return {name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permutation_leaves_the_outputs_as_they_are(name):
    shapes, outputs = NETWORKS[name]
    tensors = random_tensors(shapes)
    wiring = infer_wiring(Checkpoint("f", tensors, {}))
    before, after = outputs(tensors), outputs(permuted(tensors, wiring, 3))
    assert np.abs(before).max() > 1e-6
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)


def groups_along(name, *sides):
    shapes, _ = NETWORKS[name]
    wiring = infer_wiring(Checkpoint("f", random_tensors(shapes), {}))
    return [[s.group for s in wiring.axes[tensor][axis] or ()] for tensor, axis in sides]


def test_handed_states_are_one_group_layer_by_layer():
    sides = [(f"{side}.rnn.weight_hh_l{layer}", 1) for layer in (0, 1) for side in ("encoder", "decoder")]
    first, handed, second, handed_too = groups_along("handed_states", *sides)
    assert first == handed != second == handed_too
    assert first[0] is not None and second[0] is not None


def test_added_directions_are_one_group_with_the_state_beside_them():
    sides = [("encoder.rnn.weight_hh_l0", 1), ("encoder.rnn.weight_hh_l0_reverse", 1), ("decoder.out.weight", 1)]
    forward, back, state = groups_along("added_directions", *sides)
    assert forward == back == state and state[0] is not None


def test_layers_within_padded_blocks_stay_claimed():
    (hidden,) = groups_along("padded_shortcuts", ("layer2.0.conv2.weight", 1))
    assert hidden and hidden[0] is not None
