import jax
import numpy as np
import pytest
from networks import draw_model, variables_of

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.sweep import forward_sweep, output_logits
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.program.groups import find_groups
from wsrl.program.network import canonical_network
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry
from wsrl.training.fit import init_params
from wsrl.zoo.models import RNN

SIZE = 4  # of the images, whose rows are the steps
MODELS = {"tanh": RNN("tanh", widths=(12,)), "relu": RNN("relu", widths=(20, 8))}
IMAGES = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 1)).astype(np.float32)
ENCODER = ResponseEncoder(probes=4, input_shape=(SIZE, SIZE, 1), dim=16, chunk=4)


def torch_network(rng, layers=2, units=6, rows=SIZE):
    """A network as torch.nn.RNN and torch.nn.Linear name it, with its metadata."""
    shapes = {}
    for i in range(layers):
        shapes |= {f"rnn.weight_ih_l{i}": (units, rows if i == 0 else units), f"rnn.weight_hh_l{i}": (units, units)}
        shapes |= {f"rnn.bias_ih_l{i}": (units,), f"rnn.bias_hh_l{i}": (units,)}
    shapes |= {"head.weight": (3, units), "head.bias": (3,)}
    tensors = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    return Checkpoint("rnn.pt", tensors, {"activation": "tanh"})


def torch_logits(checkpoint, images, layers=2):
    """What torch.nn.RNN computes (its documentation's equation), then the head."""
    t = checkpoint.tensors
    sequence = list(images[..., 0].transpose(1, 0, 2))
    for i in range(layers):
        state, states = np.zeros(len(t[f"rnn.bias_hh_l{i}"])), []
        for x in sequence:
            inputs = x @ t[f"rnn.weight_ih_l{i}"].T + t[f"rnn.bias_ih_l{i}"]
            state = np.tanh(inputs + state @ t[f"rnn.weight_hh_l{i}"].T + t[f"rnn.bias_hh_l{i}"])
            states.append(state)
        sequence = states
    return sequence[-1] @ t["head.weight"].T + t["head.bias"]


def swept_logits(checkpoint):
    batch = make_buckets([checkpoint_graph(checkpoint, 16)])[0].batch([0])
    return jax.jit(lambda batch, images: output_logits(batch)[0](forward_sweep(batch, images)))(batch, IMAGES)[0]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_sweep_is_exact_whatever_the_symmetry(model):
    checkpoint, variables = draw_model(model, size=SIZE)
    expected = np.asarray(model.apply(variables, IMAGES)).T
    tolerance = {"rtol": 1e-5, "atol": 1e-5 * np.abs(expected).max()}
    other = random_symmetry(checkpoint, read_program(checkpoint).wiring, np.random.default_rng(2))
    assert all(not np.array_equal(v, checkpoint.tensors[k]) for k, v in other.tensors.items() if "Cell" in k)
    np.testing.assert_allclose(np.asarray(model.apply(variables_of(other), IMAGES)).T, expected, **tolerance)
    np.testing.assert_allclose(swept_logits(other)[:5], expected, **tolerance)


def test_embeddings_are_invariant():
    checkpoint, _ = draw_model(MODELS["relu"], size=SIZE)
    wiring, rng = read_program(checkpoint).wiring, np.random.default_rng(3)
    checkpoints = [checkpoint] + [random_symmetry(checkpoint, wiring, rng) for _ in range(3)]
    params = init_params(ENCODER, IMAGES, 0)
    found = Embedder(ENCODER, read_size=4)(params, make_buckets([checkpoint_graph(c, 16) for c in checkpoints]))
    np.testing.assert_allclose(found.embedding[1:], np.tile(found.embedding[0], (3, 1)), atol=1e-5)


def test_units_of_all_steps_are_one_group():
    checkpoint, _ = draw_model(MODELS["relu"], size=SIZE)
    program = read_program(checkpoint)
    hidden = [group for group in find_groups(program.layers) if group.role == "hidden"]
    assert [(group.size, len(group.members), group.scale) for group in hidden] == [
        (20, SIZE, "positive"),
        (8, SIZE, "positive"),
    ]
    assert all(any(axes) for axes in program.wiring.axes.values())
    rows, columns = program.wiring.axes["params/SimpleCell_0/h/kernel"]
    assert rows[0].group == columns[0].group == hidden[0].id
    assert (rows[0].power, columns[0].power) == (-1, 1)


def test_canonical_steps_still_share_their_weights():
    checkpoint, _ = draw_model(MODELS["relu"], size=SIZE)
    network = canonical_network(checkpoint, read_program(checkpoint))
    steps = network.layers[2 : SIZE + 1]  # of the first cell, but for its first step
    for step in steps:
        for ours, first in zip((*step.weights, step.bias), (*steps[0].weights, steps[0].bias), strict=True):
            np.testing.assert_array_equal(ours, first)


def test_torch_names_and_their_two_biases():
    checkpoint = torch_network(np.random.default_rng(0))
    expected = torch_logits(checkpoint, IMAGES).T
    other = random_symmetry(checkpoint, read_program(checkpoint).wiring, np.random.default_rng(1))
    np.testing.assert_allclose(torch_logits(other, IMAGES).T, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(swept_logits(checkpoint)[:3], expected, rtol=1e-4, atol=1e-5)


def lstm(tensors):
    tensors["rnn.weight_ih_l0"], tensors["rnn.weight_hh_l0"] = np.zeros((24, SIZE)), np.zeros((24, 6))


def longer_rows(tensors):
    tensors["rnn.weight_ih_l0"] = np.zeros((6, SIZE + 1))


def bidirectional(tensors):
    tensors["head.weight"] = np.zeros((3, 12))


def halved(tensors):
    del tensors["rnn.weight_hh_l1"], tensors["rnn.bias_hh_l1"]


def without_state(tensors):
    for name in [name for name in tensors if "_hh_" in name]:
        del tensors[name]


def headless(tensors):
    del tensors["head.weight"], tensors["head.bias"]


@pytest.mark.parametrize("change", [lstm, longer_rows, bidirectional, halved, without_state, headless])
def test_other_networks_are_refused_in_one_line(change):
    tensors = dict(torch_network(np.random.default_rng(0)).tensors)
    change(tensors)
    with pytest.raises(CheckpointError, match=r"^rnn\.pt: [^\n]+; [^\n]+$"):
        read_program(Checkpoint("rnn.pt", tensors, {"input_shape": [SIZE, SIZE, 1]}))
