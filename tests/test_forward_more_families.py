"""Parts of image models without a graph: maps made larger, biases by distance, waves of positions, flat blocks."""

import re
from importlib.util import find_spec

import numpy as np
import pytest

from experiments.proofs import families
from tests.image_networks import StateDict, checkpoint, images, logits
from wsrl.checkpoint import CheckpointError
from wsrl.forward.families.levit import by_distance
from wsrl.forward.families.module import Module
from wsrl.forward.families.network import Config, Network
from wsrl.forward.families.recognize import family_graph
from wsrl.forward.families.value import Trace, Value
from wsrl.forward.graph import ForwardGraph
from wsrl.forward.run import run


def ran(value, state, x):
    """What a value is where the input is `x`."""
    trace = value.trace
    graph = ForwardGraph(tuple(trace.steps), trace.input, x.shape[1:], value.name, trace.constants)
    return run(graph, checkpoint(state), x)


def module(state):
    shapes = {name: tensor.shape for name, tensor in state.items()}
    return Module(Network({name: name for name in state}, shapes, Config({}), None, Trace(list(state))))


def test_maps_are_enlarged_by_repeating_pixels():
    x = images(6)
    m = module(StateDict())
    grown = Value(m.net.trace, m.net.trace.input, x.shape[1:]).enlarged(3)
    assert grown.shape == (x.shape[1], 18, 18)
    np.testing.assert_array_equal(ran(grown, {}, x), x.repeat(3, 2).repeat(3, 3))


@pytest.mark.parametrize("stride", [1, 2])
def test_biases_depend_on_distances_along_rows_and_columns(stride):
    side, state = 3, StateDict()
    state.draw("attention_biases", 2, side * side)
    found = ran(by_distance(module(state), stride), state, images(6))
    places = [(y, x) for y in range(side) for x in range(side)]
    asking = [(y, x) for y in range(0, side, stride) for x in range(0, side, stride)]
    for i, (a, b) in enumerate(asking):
        for j, (c, d) in enumerate(places):
            place = abs(a - c) * side + abs(b - d)
            np.testing.assert_array_equal(found[:, i, j], state["attention_biases"][:, place])


def efficientnet(flat):
    """An EfficientNet of 16 narrow blocks, in the names of efficientnet_pytorch or of timm."""
    state = StateDict()
    sizes, widths, kernels = (1, 2, 2, 3, 3, 4, 1), (4, 6, 8, 10, 12, 14, 16), (3, 3, 5, 3, 5, 5, 3)
    state.conv_norm(*(("_conv_stem", "_bn0") if flat else ("conv_stem", "bn1")), 6, 3, 3, 3)
    inputs, number = 6, 0
    for stage, (size, width, kernel) in enumerate(zip(sizes, widths, kernels, strict=True)):
        for block in range(size):
            path = f"_blocks.{number}." if flat else f"blocks.{stage}.{block}."
            hidden, first = inputs * (6 if stage else 1), stage == 0
            names = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
            if not flat:
                names = [*("conv_pw bn1 conv_dw bn2 conv_pwl bn3" if stage else "- - conv_dw bn1 conv_pw bn2").split()]
            if not first:
                state.conv_norm(path + names[0], path + names[1], hidden, inputs, 1, 1)
            state.conv_norm(path + names[2], path + names[3], hidden, 1, kernel, kernel)
            for name, shape in (("reduce", (2, hidden, 1, 1)), ("expand", (hidden, 2, 1, 1))):
                state.layer(f"{path}_se_{name}" if flat else f"{path}se.conv_{name}", *shape)
            state.conv_norm(path + names[4], path + names[5], width, hidden, 1, 1)
            inputs, number = width, number + 1
    state.conv_norm(*(("_conv_head", "_bn1") if flat else ("conv_head", "bn2")), 20, inputs, 1, 1)
    state.layer("_fc" if flat else "classifier", 5, 20)
    return state


def test_flat_blocks_are_those_of_an_efficientnet_of_tensorflow():
    x = images(64, 1)
    told = {"input_shape": [64, 64, 3]}
    flat = logits(efficientnet(True), x, **told)
    staged = logits(efficientnet(False), x, config={"architecture": "tf_efficientnet_b0"}, **told)
    assert np.abs(flat).max() > 0.1
    np.testing.assert_allclose(flat, staged, rtol=1e-4, atol=1e-5)


def test_the_size_of_images_belongs_to_a_network_of_flat_blocks():
    state = efficientnet(True)
    facts = family_graph(checkpoint(state))[1]
    assert facts["input"].value == (224, 224, 3) and facts["epsilon"].value == 1e-3


def test_a_block_that_no_family_has_is_refused():
    state = {re.sub(r"_depthwise_conv", "_other_conv", name): t for name, t in efficientnet(True).items()}
    with pytest.raises(CheckpointError, match="no network that can be run"):
        family_graph(checkpoint(state))


@pytest.mark.filterwarnings("default")  # other projects' own
@pytest.mark.parametrize(
    "name", ["transformers/levit", "transformers/pvt-v2", "transformers/mobilevitv2", "timm/ghostnet_050"]
)
def test_logits_are_those_of_the_library(name):
    for package in ("torch", "timm", "transformers"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    told, *_ = families.prove(name)
    assert told.file == "config" and told.status == "same"
    assert told.error is not None and told.contrast is not None and told.error < 0.01 * told.contrast
