import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from experiments.tables.torch_form import STYLES, torch_form
from wsrl.checkpoint import Checkpoint
from wsrl.encoder.dense_layers import dense_layers
from wsrl.encoder.dense_sweep import Inputs, sweep_network
from wsrl.program.network import read_network
from wsrl.program.read import read_program
from wsrl.zoo.diverse_families import DIVERSE
from wsrl.zoo.families import MANY, WIDE
from wsrl.zoo.models import CNNPooled, pool_windows
from wsrl.zoo.stacked import initialize
from wsrl.zoo.storage import checkpoint_bytes, parse_checkpoint

GIVEN = 28  # pixels of the images of the zoo


def draw(model, seed=0):
    """Variables, tensors and images that the model takes as they are."""
    variables = initialize(model, GIVEN, seed, 1.0)
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    tensors = {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}
    images = np.random.default_rng(seed).standard_normal((3, model.image_size, model.image_size, 1), np.float32)
    return variables, tensors, images


def answers(checkpoint, images, hints=None):
    network = dense_layers(read_network(checkpoint, read_program(checkpoint, hints)))
    return sweep_network(network, Inputs(images), None, gradients=False)[0].T


def wanted(model, variables, images):
    """What the model answers to pixels as the encoder gives them."""
    return np.asarray(model.clone(pixels=(1.0, 0.0)).apply(variables, images))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", DIVERSE)
def test_files_of_the_zoo_run_as_the_models_do(family):
    for model in (DIVERSE[family].train[-1], DIVERSE[family].test[0]):
        variables, tensors, images = draw(model)
        checkpoint = parse_checkpoint(checkpoint_bytes(tensors, model, GIVEN), "x")
        assert_close(answers(checkpoint, images), wanted(model, variables, images))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", DIVERSE)
def test_bare_files_that_are_told_run_as_the_models_do(family, style):
    model = DIVERSE[family].test[-1]
    variables, tensors, images = draw(model, 1)
    saved = safetensors.numpy.save(torch_form(tensors, style, model.pooling != "none"))
    bare = Checkpoint("x", safetensors.numpy.load(saved), {})
    told = {"activation": model.activation, "strides": model.conv_strides, "pooling": model.pooling}
    told |= {"input_shape": [model.image_size, model.image_size, 1], "heads": model.heads}
    assert_close(answers(bare, images, told), wanted(model, variables, images))


@pytest.mark.parametrize("name", MANY)
def test_no_test_variant_has_a_width_that_is_trained_on(name):
    train, test = ({w for model in part for w in model.widths} for part in (MANY[name].train, MANY[name].test))
    assert max(test) > max(train) and not test & train


def test_many_holds_small_networks_beside_diverse_ones():
    for name, family in MANY.items():
        assert all(variant in family.variants for variant in DIVERSE[name].variants)
        assert all(variant.image_size for variant in family.variants)
        wide = WIDE[name].variants if name in WIDE else ()
        assert all(variant.clone(image_size=16) in family.variants for variant in wide)


def test_numbers_of_a_sequence_leave_room_for_modules_without_tensors():
    _, tensors, _ = draw(CNNPooled("relu", widths=(2, 3), norm=True, hidden=4, image_size=8))
    names = {name.rsplit(".", 1)[0] for name in torch_form(tensors, "sequential", True)}
    # convolution, norm, activation, pooling; twice; then a flatten, a dense layer, its activation, and the last
    assert names == {"net.0", "net.1", "net.4", "net.5", "net.9", "net.11"}


def test_windows_are_pooled_without_what_is_left_over_at_the_border():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    assert np.asarray(pool_windows(x, "max"))[0, :, :, 0].tolist() == [[6, 8], [16, 18]]
    assert np.asarray(pool_windows(x, "mean"))[0, :, :, 0].tolist() == [[3, 5], [13, 15]]


def test_images_are_resized_and_scaled_as_the_recipe_says():
    model = CNNPooled(image_size=4, pixels=(0.5, 0.5))
    seen = np.asarray(model.seen(np.full((2, 8, 8, 1), -1, np.float32)))
    assert seen.shape == (2, 4, 4, 1) and np.abs(seen).max() < 1e-6
    x = np.ones((1, 8, 8, 1), np.float32)
    assert CNNPooled().seen(x) is x
