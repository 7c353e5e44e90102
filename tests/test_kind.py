import pytest
from networks import draw_model

from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.kind import network_kind
from wsrl.zoo.families import WIDE

KINDS = {
    "mlp": "dense",
    "cnn_flatten": "map",
    "cnn_gap": "map pooled",
    "resnet": "map pooled skip",
    "vit": "norm attention map pooled skip",
    "sequence_transformer": "norm attention rows pooled skip",
    "rnn": "skip steps",
}


@pytest.mark.parametrize("family", KINDS)
def test_networks_of_a_family_are_of_one_kind_and_families_of_several(family):
    variants = WIDE[family].variants
    for model in (variants[0], variants[-1]):
        assert network_kind(checkpoint_graph(draw_model(model, 0, 16)[0], 16)) == KINDS[family]
