import pytest
from networks import draw_model

from wsrl.encoder.dense_network import dense_network
from wsrl.encoder.kind import network_kind
from wsrl.graph.collection import checkpoint_graph
from wsrl.program.read import read_program
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
        checkpoint = draw_model(model, 0, 16)[0]
        assert network_kind(read_program(checkpoint).layers) == KINDS[family]
        assert network_kind(dense_network(checkpoint_graph(checkpoint, 16))) == KINDS[family]
