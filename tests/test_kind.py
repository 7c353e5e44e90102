import pytest
from networks import draw_model

from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.kind import network_kind, why_not_embeddable
from wsrl.zoo.families import WIDE
from wsrl.zoo.models import MLP

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


def test_networks_with_one_output_are_not_told_apart():
    one, two = (checkpoint_graph(draw_model(MLP("tanh", num_classes=n, widths=(8,)))[0], 16) for n in (1, 2))
    assert str(why_not_embeddable(one)).startswith("one output")
    assert why_not_embeddable(two) is None
