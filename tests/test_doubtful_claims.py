"""What meets a group unseen: permuting what is claimed leaves the outputs of small networks as they were."""

import numpy as np
import pytest
from doubtful_networks import NETWORKS as DOUBTFUL
from unseen_networks import NETWORKS as UNSEEN

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

NETWORKS = DOUBTFUL | UNSEEN


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


@pytest.mark.parametrize(
    "name, sides",
    [
        ("joined_beside_a_code", ("up.conv1.weight", 1)),
        ("read_beside_the_input", ("lin2.weight", 1)),
        ("bilinear", ("bilinear.weight", 1)),
    ],
)
def test_what_may_be_read_in_another_way_is_in_no_group(name, sides):
    assert groups_along(name, sides) == [[]] or groups_along(name, sides) == [[None]]


def test_a_code_and_the_state_of_a_cell_are_not_hidden():
    for name, tensor in (("returned_code", "decoder.0.weight"), ("state_of_a_cell", "fc2.weight")):
        shapes, _ = NETWORKS[name]
        wiring = infer_wiring(Checkpoint("f", random_tensors(shapes), {}))
        (group,) = [s.group for s in wiring.axes[tensor][1] or ()]
        assert group is not None and not wiring.groups[group].permutable


def test_what_is_added_further_on_is_one_group():
    first, last = groups_along("added_further_on", ("conv1.weight", 0), ("conv4.weight", 1))
    assert first == last and first[0] is not None
