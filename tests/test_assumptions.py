"""The weights of a network speak for the program that it was trained as."""

import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint
from wsrl.encoder.assumptions import information, learned_information, likeliest, norm_drift, shuffled
from wsrl.encoder.dense_layers import dense_layers
from wsrl.encoder.dense_sweep import Inputs, Trace
from wsrl.program.network import read_network
from wsrl.program.read import read_program, read_programs

IMAGES = np.random.default_rng(0).normal(size=(64, 28, 28, 1)).astype(np.float32)


def images_of(shape, count):
    return Inputs(IMAGES[:count, : shape[0], : shape[1]])


def normed_cnn(activation, pooling):
    """A bare file of a network whose batch norms keep what other images gave them: brighter, with more contrast."""
    rng = np.random.default_rng(1)
    shapes = {"conv1": (8, 1, 3, 3), "conv2": (12, 8, 3, 3), "conv3": (12, 12, 3, 3), "fc": (4, 12 * 9)}
    tensors = {f"{k}.weight": (rng.normal(size=s) / 3).astype(np.float32) for k, s in shapes.items()}
    for i, units in enumerate((8, 12, 12), 1):
        draw = {"weight": rng.uniform(0.5, 2, units), "bias": rng.normal(size=units)}
        draw |= {"running_mean": np.zeros(units), "running_var": np.ones(units)}
        tensors |= {f"bn{i}.{name}": value.astype(np.float32) for name, value in draw.items()}
    told = {"activation": activation, "input_shape": [28, 28, 1], "pooling": pooling}
    checkpoint = Checkpoint("normed.pt", tensors, told)
    for i in range(1, 4):  # each norm in turn keeps what reaches it
        program = next(p for p in read_programs(checkpoint) if len(p.layers) == 8)
        place = next(place for place, layer in enumerate(program.layers) if layer.name == f"conv{i}")
        made = {}
        network = dense_layers(read_network(Checkpoint("", tensors, {}), program))

        def keep(layer, state, made=made):
            made[layer] = state.copy()
            return state

        Trace(network, Inputs(2 * IMAGES + 1), slice(0, 64), adjust=keep)
        gain, shift = (tensors[f"bn{i}.{name}"][:, None] for name in ("weight", "bias"))
        before = (made[place] - shift) / gain
        tensors[f"bn{i}.running_mean"] = before.mean((0, 1, 3))
        tensors[f"bn{i}.running_var"] = before.var((0, 1, 3))
    return Checkpoint("normed.pt", tensors, {})


@pytest.mark.parametrize("activation, pooling", [("relu", "max"), ("tanh", "mean"), ("gelu", "max")])
def test_batch_norms_show_activation_and_pooling(activation, pooling):
    checkpoint = normed_cnn(activation, pooling)
    chosen = likeliest(checkpoint, read_programs(checkpoint), images_of)
    assert chosen.values["activation"] == activation
    assert chosen.values["pooling"] == f"{pooling} 2x2 after each convolution"


def test_the_kind_of_images_does_not_count_for_norms():
    checkpoint = normed_cnn("relu", "max")
    hints = {"activation": "relu", "pooling": "max", "input_shape": [28, 28, 1]}
    program = read_program(checkpoint, hints)
    one, other = (norm_drift(checkpoint, program, Inputs(images)) for images in (IMAGES, 3 * IMAGES - 2))
    assert one == pytest.approx(0, abs=1e-2) and other == pytest.approx(one, abs=1e-2)


def test_without_norms_there_is_no_drift():
    tensors = {"fc1.weight": np.ones((8, 784), np.float32), "fc2.weight": np.ones((4, 8), np.float32)}
    checkpoint = Checkpoint("mlp.pt", tensors, {})
    assert norm_drift(checkpoint, read_program(checkpoint), Inputs(IMAGES)) is None


def test_information_is_that_of_a_sure_and_varied_classifier():
    rng = np.random.default_rng(0)
    tensors = {"fc1.weight": rng.normal(size=(64, 784)).astype(np.float32), "fc2.weight": np.zeros((4, 64), np.float32)}

    def of(scale):
        tensors["fc2.weight"] = (scale * rng.normal(size=(4, 64))).astype(np.float32)
        checkpoint = Checkpoint("mlp.pt", dict(tensors), {"activation": "tanh"})
        return information(dense_layers(read_network(checkpoint, read_program(checkpoint))), Inputs(IMAGES))

    assert of(0.0) == pytest.approx(0, abs=1e-5)
    assert np.log(4) > of(100.0) > 0.8 * np.log(4)


def test_order_of_hidden_units_carries_what_was_learned():
    """Pairs of units that cancel each other but for the sign of a pixel: out of order they do not fit."""
    first = np.zeros((64, 784), np.float32)
    first[np.arange(64), np.arange(64) // 8 * 100] = 4.0
    second = np.kron(np.eye(8), np.ones((1, 8))).astype(np.float32)
    checkpoint = Checkpoint("mlp.pt", {"fc1.weight": first, "fc2.weight": second}, {"activation": "relu"})
    network = dense_layers(read_network(checkpoint, read_program(checkpoint)))
    assert learned_information(network, Inputs(IMAGES)) > 0.1


def test_shuffling_keeps_weights_and_the_input():
    checkpoint = normed_cnn("relu", "max")
    network = dense_layers(read_network(checkpoint, read_program(checkpoint)))
    other = shuffled(network, np.random.default_rng(0))
    pairs = [
        (one.weight, two.weight)
        for a, b in zip(network, other, strict=True)
        for one, two in zip(a.links, b.links, strict=True)
        if one.weight is not None
    ]
    for w, v in pairs:
        np.testing.assert_array_equal(np.sort(w, axis=2), np.sort(v, axis=2))
    np.testing.assert_array_equal(*pairs[0])
    assert not np.array_equal(*pairs[-1])
