import numpy as np
from networks import draw_model

from experiments.resweep import with_relu
from wsrl.graph.collection import checkpoint_graph
from wsrl.wiring.layers import ACTIVATIONS
from wsrl.zoo.models import MLP


def test_activations_are_taken_for_relu_and_outputs_stay_linear():
    tanh, relu = (checkpoint_graph(draw_model(MLP(name, widths=(6,)), 0, 8)[0], 8) for name in ("tanh", "relu"))
    changed = with_relu(tanh)
    np.testing.assert_array_equal(changed.nodes["activation"], relu.nodes["activation"])
    assert {ACTIVATIONS[i] for i in tanh.nodes["activation"]} == {"identity", "tanh"}
    np.testing.assert_array_equal(changed.edges["weight"], tanh.edges["weight"])
