import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.models import MLP, RNN, CNNGap, ResNet, SequenceTransformer, ViT, patch_convolution
from wsrl.zoo.stacked import initialize

MODELS = [
    pytest.param(model, id=f"{catalogue}-{family}-{model.activation}")
    for catalogue, families in CATALOGUES.items()
    for family in families
    for model in families[family].variants
]


def convolve(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("size", "stride", "height"), [*itertools.product((1, 3, 4), (1, 2, 3), (7, 8))])
def test_patch_convolution_is_a_convolution(size, stride, height):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, height, 9, 3)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 3, 4)).astype(np.float32)
    arguments = (stride, stride), ((size // 2, size // 2),) * 2

    @functools.partial(jax.jit, static_argnums=0)
    def output_and_gradient(function, x, kernel):
        y, pullback = jax.vjp(lambda x, kernel: function(x, kernel, *arguments), x, kernel)
        return y, pullback(y)

    ours, theirs = (output_and_gradient(f, x, kernel) for f in (patch_convolution, convolve))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, theirs)


def test_padding_is_one_pixel_on_each_side():
    model = CNNGap(widths=(1,), conv_strides=(2,))
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 0] = 1  # looks up and left: the first output pixel sees the padding alone
    params = {
        "Conv_0": {"kernel": kernel, "bias": np.zeros(1, np.float32)},
        "Dense_0": {"kernel": np.eye(1, 5, dtype=np.float32), "bias": np.zeros(5, np.float32)},
    }
    image = np.ones((1, 16, 16, 1), np.float32)
    assert model.apply({"params": params}, image)[0, 0] == pytest.approx(49 / 64)


@pytest.mark.parametrize("model", MODELS)
def test_variables_are_those_of_flax(model):
    variables = initialize(model, 16, 0, 1.0)
    image = jax.ShapeDtypeStruct((1, 16, 16, 1), np.float32)
    flax = {"batch_stats": {}} | dict(jax.eval_shape(model.init, jax.random.key(0), image))
    assert jax.tree.map(lambda leaf: leaf.shape, flax) == jax.tree.map(lambda leaf: leaf.shape, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


@pytest.mark.parametrize("family", CATALOGUES["wide"])
def test_logits_of_an_image_do_not_depend_on_the_others(family):
    model = CATALOGUES["wide"][family].train[0]
    variables = initialize(model, 16, 0, 1.0)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)
    apply = jax.jit(lambda x: model.apply(variables, x))
    logits = apply(x)
    assert logits.shape == (3, 5) and np.isfinite(logits).all()
    np.testing.assert_allclose(logits[::-1], apply(x[::-1]), atol=1e-5)


def test_initial_kernels_have_the_deviation_of_flax():
    dense = MLP(widths=(200,))
    ours = initialize(dense, 16, 0, 2.0)["params"]["Dense_0"]["kernel"]
    theirs = dense.init(jax.random.key(1), jnp.zeros((1, 16, 16, 1)))["params"]["Dense_0"]["kernel"]
    assert ours.std() == pytest.approx(2 * float(theirs.std()), rel=0.02)
    block = initialize(ViT(widths=(64,), heads=4), 16, 0, 1.0)["params"]["TransformerBlock_0"]
    for name, projection in block["MultiHeadDotProductAttention_0"].items():
        assert projection["kernel"].std() == pytest.approx(0.125, rel=0.05), name


def test_recurrent_kernels_are_orthogonal():
    kernel = initialize(RNN(widths=(24,)), 16, 0, 2.0)["params"]["SimpleCell_0"]["h"]["kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(24), atol=1e-5)


def test_small_cnn_zoo():
    variables = initialize(CNNGap(num_classes=10), 16, 0, 1.0)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 4970


def test_strides_follow_the_forward_pass():
    model = ResNet(widths=(8, 8, 16), block_strides=(2, 1, 2))
    assert model.conv_strides == (2, 1, 1, 2, 1, 2)
    blocks = initialize(model, 16, 0, 1.0)["params"]
    assert [name for name in blocks["ResidualBlock_0"] if name.startswith("Conv")] == ["Conv_0", "Conv_1"]
    assert blocks["ResidualBlock_1"]["Conv_2"]["kernel"].shape == (1, 1, 8, 16)


def test_attention_kernels_name_their_heads():
    attention = initialize(ViT(), 16, 0, 1.0)["params"]["TransformerBlock_0"]
    shapes = {name: leaf["kernel"].shape for name, leaf in attention["MultiHeadDotProductAttention_0"].items()}
    assert shapes == {"query": (16, 2, 8), "key": (16, 2, 8), "value": (16, 2, 8), "out": (2, 8, 16)}


def test_tokens_of_a_sequence_are_the_rows():
    model = SequenceTransformer()
    variables = initialize(model, 16, 0, 1.0)
    assert variables["params"]["Conv_0"]["kernel"].shape == (1, 16, 1, 16)
    assert variables["params"]["pos_embedding"].shape == (1, 16, 16)
    variables["params"]["pos_embedding"] = np.zeros((1, 16, 16), np.float32)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 1)).astype(np.float32)
    rows, columns = (model.apply(variables, np.flip(x, axis)) for axis in (1, 2))
    logits = model.apply(variables, x)
    np.testing.assert_allclose(rows, logits, atol=1e-5)  # without positions, rows are a set
    assert np.abs(columns - logits).max() > 1e-2


def test_dropout_keeps_the_mean():
    model = MLP(widths=(16,))
    variables, x = initialize(model, 16, 0, 1.0), np.ones((1, 16, 16, 1), np.float32)

    @jax.jit
    @jax.vmap
    def logits(key, rate):
        return model.apply(variables, x, train=True, dropout=rate, rngs={"dropout": key})[0]

    whole = model.apply(variables, x)[0]
    outcomes = logits(jax.random.split(jax.random.key(0), 4000), np.repeat([0.0, 0.3], 2000))
    np.testing.assert_allclose(outcomes[:2000], np.tile(whole, (2000, 1)), atol=1e-5)
    assert outcomes[2000:].std(0).min() > 0.01
    np.testing.assert_allclose(outcomes[2000:].mean(0), whole, atol=0.1)
