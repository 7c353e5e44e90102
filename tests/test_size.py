import numpy as np
import pytest
from networks import draw_model

from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.size import network_size
from wsrl.zoo.models import MLP, CNNFlatten

MODELS = [
    (MLP("relu", widths=(20, 7)), 64 * 20 + 20 * 7 + 7 * 5, 3, 7),
    (MLP("relu", widths=(7, 20), num_classes=40), 64 * 7 + 7 * 20 + 20 * 40, 3, 20),
    (CNNFlatten("relu", widths=(3, 18), conv_strides=(2, 2), hidden=6), 27 + 27 * 18 + 4 * 18 * 6 + 6 * 5, 4, 6),
]


@pytest.mark.parametrize("tile", [4, 16])
@pytest.mark.parametrize(("model", "weights", "layers", "features"), MODELS)
def test_weights_layers_and_features_are_counted_whatever_the_tile(model, weights, layers, features, tile):
    found = network_size(checkpoint_graph(draw_model(model, 0, 8)[0], tile))
    np.testing.assert_allclose(found, [np.log(weights), layers, np.log(features)], rtol=1e-6)
