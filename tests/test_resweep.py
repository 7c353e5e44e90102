from dataclasses import replace

import jax
import numpy as np
import pytest
from networks import draw_model

from experiments.tables.resweep import COUNT, NoMapsEncoder, RoundsEncoder, with_relu
from wsrl.checkpoint import Checkpoint
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.graph.batching import make_batch
from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.plans import make_plan, profile
from wsrl.program.layers import ACTIVATIONS
from wsrl.zoo.models import MLP, CNNGap

SIZE = 8
IMAGES = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 1)).astype(np.float32)


def last_states(encoder: ResponseEncoder, checkpoint: Checkpoint) -> np.ndarray:
    """States of the output layer [nodes, tile, positions, probes]."""
    graph = checkpoint_graph(checkpoint, 16)
    batch = make_batch([graph], make_plan(profile(graph), 2, 16))
    return np.asarray(jax.jit(lambda *given: encoder.respond(*given)[-1])(batch, IMAGES))


def test_activations_are_taken_for_relu_and_outputs_stay_linear():
    tanh, relu = (checkpoint_graph(draw_model(MLP(name, widths=(6,)), 0, 8)[0], 8) for name in ("tanh", "relu"))
    changed = with_relu(tanh)
    np.testing.assert_array_equal(changed.nodes.activation, relu.nodes.activation)
    assert {ACTIVATIONS[i] for i in tanh.nodes.activation} == {"identity", "tanh"}
    np.testing.assert_array_equal(changed.edges.weight, tanh.edges.weight)


@pytest.mark.parametrize(("depth", "heard"), [(COUNT, True), (COUNT + 1, False)])
def test_rounds_are_a_sweep_as_far_as_they_reach(depth: int, heard: bool):
    network = draw_model(MLP("tanh", widths=(6,) * (depth - 1)), 0, SIZE)[0]  # and the output layer
    found, swept = last_states(RoundsEncoder(), network), last_states(ResponseEncoder(), network)
    assert np.ptp(swept, axis=-1).max() > 0.01
    if heard:
        np.testing.assert_allclose(found, swept, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, np.broadcast_to(found[..., :1], found.shape))


def test_networks_without_maps_do_without_them():
    network = draw_model(MLP("relu", widths=(6, 6)), 0, SIZE)[0]
    found, swept = last_states(NoMapsEncoder(), network), last_states(ResponseEncoder(), network)
    np.testing.assert_allclose(found, swept, rtol=1e-5, atol=1e-6)


def test_with_one_state_a_neuron_a_kernel_may_be_turned():
    """Its taps read the same; turned by 180 degrees, borders stay the same too."""
    model = CNNGap("relu", widths=(4, 4), conv_strides=(2, 1))
    checkpoint = draw_model(model, 0, SIZE)[0]
    name = "params/Conv_1/kernel"
    turned = replace(checkpoint, tensors={**checkpoint.tensors, name: checkpoint.tensors[name][::-1, ::-1].copy()})
    for encoder, same in ((NoMapsEncoder(), True), (ResponseEncoder(), False)):
        before, after = (last_states(encoder, own) for own in (checkpoint, turned))
        assert np.allclose(before, after, rtol=1e-5, atol=1e-6) == same
