import flax.linen as nn
import jax
import numpy as np
import pytest
from networks import MAIN, SIZE, draw_model, draw_network, logits

from wsrl.data import normalize
from wsrl.encoder.features import CHUNK, network_features
from wsrl.graph.collection import checkpoint_graph
from wsrl.graph.tiles import to_graph
from wsrl.program.network import read_network
from wsrl.program.read import read_program
from wsrl.zoo.models import MLP

IMAGES = normalize(np.random.default_rng(1).integers(0, 256, (CHUNK + 3, SIZE, SIZE, 1)).astype(np.uint8))


def head_inputs(family, variant, variables):
    """What the last layer of the Flax module is fed."""

    def take(call, args, kwargs, context):
        return args[0] if context.method_name == "head" else call(*args, **kwargs)

    with nn.intercept_methods(take):
        return np.asarray(MAIN[family].variants[variant].apply(variables, IMAGES))


CASES = [("mlp", 1), ("cnn_gap", 2), ("cnn_flatten", 0), ("resnet", 0), ("vit", 2)]
SLACK = 50.0  # few programs


@pytest.fixture(scope="module")
def networks():
    return [draw_network(*case) for case in CASES]


@pytest.fixture(scope="module")
def responses(networks):
    """From graphs of the networks as they were drawn, not made canonical."""
    read = [read_network(checkpoint, read_program(checkpoint)) for checkpoint, _ in networks]
    return network_features([to_graph(network, 16) for network in read], IMAGES, slack=SLACK)


@pytest.mark.parametrize("place", range(len(CASES)))
def test_features_and_logits_are_those_of_the_model(networks, responses, place):
    (family, variant), variables, found = CASES[place], networks[place][1], responses[place]
    expected = head_inputs(family, variant, variables)
    assert found.features.shape == expected.shape
    np.testing.assert_allclose(found.features, expected, atol=1e-5 * np.abs(expected).max())
    expected = logits(family, variant, variables, IMAGES)
    assert found.logits.shape == expected.shape
    np.testing.assert_allclose(found.logits, expected, atol=1e-5 * np.abs(expected).max())


def test_canonical_networks_have_the_same_logits_and_rescaled_features(networks, responses):
    graphs = [checkpoint_graph(checkpoint, 8) for checkpoint, _ in networks[:3]]
    for found, plain in zip(network_features(graphs, IMAGES, slack=SLACK), responses, strict=False):
        np.testing.assert_allclose(found.logits, plain.logits, atol=1e-5 * np.abs(plain.logits).max())
        factors = (found.features * plain.features).sum(0) / np.maximum((plain.features**2).sum(0), 1e-30)
        np.testing.assert_allclose(found.features, factors * plain.features, atol=1e-4 * np.abs(found.features).max())


def test_any_number_of_classes_and_images():
    """More classes than a tile holds, beside fewer; other numbers of images; networks for larger images."""
    models = [MLP("relu", num_classes=21, widths=(12,)), MLP("tanh", num_classes=2, widths=(7, 5))]
    drawn = [draw_model(model, seed) for seed, model in enumerate(models)]
    graphs = [checkpoint_graph(checkpoint, 8) for checkpoint, _ in drawn]
    for images in (IMAGES[:1], IMAGES):
        for model, (_, variables), found in zip(models, drawn, network_features(graphs, images), strict=True):
            expected = np.asarray(model.apply(variables, images))
            assert found.features.shape == (len(images), model.widths[-1])
            np.testing.assert_allclose(found.logits, expected, atol=1e-5 * np.abs(expected).max())
    small = IMAGES[:, ::2, ::2]
    found = network_features(graphs[:1], small)[0].logits
    resized = np.asarray(jax.image.resize(small, IMAGES.shape, "linear"))
    np.testing.assert_allclose(found, network_features(graphs[:1], resized)[0].logits, atol=1e-5 * np.abs(found).max())
