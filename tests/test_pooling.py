"""Pooling over windows: forward and in the class gradients, against Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint
from wsrl.encoder.kind import network_kind
from wsrl.encoder.sweep import class_gradients, forward_sweep, output_logits
from wsrl.graph.batching import make_batch
from wsrl.graph.plans import make_plan, profile
from wsrl.graph.tiles import to_graph
from wsrl.program.groups import find_groups
from wsrl.program.layers import Layer, Link, View
from wsrl.program.network import read_network
from wsrl.program.program import Program
from wsrl.wiring.wiring import Wiring

SIZE, UNITS, CLASSES = 11, 20, 4  # units fill more than a tile
IMAGES = np.random.default_rng(1).normal(size=(4, SIZE, SIZE, 2)).astype(np.float32)
# window, stride, padding of both pooling layers
WINDOWS = [((2, 2), 2, 0), ((3, 3), 2, 1), ((3, 2), 1, 0)]


def network(pooling, window, activation, before):
    """Convolution, pooling, convolution, pooling, dense: its program, tensors and Flax function of images.

    `before`: activations stand before the pooling, else after it.
    """
    kernel, stride, padding = window
    rng = np.random.default_rng(3)
    draw = lambda *shape: (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)  # noqa: E731
    tensors = {"a": draw(3, 3, 2, UNITS), "a.bias": draw(UNITS), "b": draw(3, 3, UNITS, UNITS), "b.bias": draw(UNITS)}

    def conv(name, grid, source, fan_in):
        sizes = {"ky": 3, "kx": 3, "in": fan_in, "out": UNITS}
        weight = View(name, (("ky",), ("kx",), ("in",), ("out",)), sizes)
        bias = View(f"{name}.bias", (("out",),), sizes)
        own = activation if before else "identity"
        return Layer(name, "linear", UNITS, grid, (Link(source, weight, (3, 3), 1, 1),), (bias,), activation=own)

    def pool(grid, source):
        own = "identity" if before else activation
        size = tuple((n + 2 * padding - k) // stride + 1 for n, k in zip(grid, kernel, strict=True))
        link = Link(source, None, kernel, stride, padding)
        return Layer("pool", "pool", UNITS, size, (link,), activation=own, pooling=pooling)

    layers = [Layer("input", "input", 2, (SIZE, SIZE)), conv("a", (SIZE, SIZE), 0, 2)]
    layers.append(pool(layers[1].grid, 1))
    layers.append(conv("b", layers[2].grid, 2, UNITS))
    layers.append(pool(layers[3].grid, 3))
    height, width = layers[4].grid
    tensors["c"] = draw(height * width * UNITS, CLASSES)
    sizes = {"ky": height, "kx": width, "in": UNITS, "out": CLASSES}
    dense = Link(4, View("c", (("ky", "kx", "in"), ("out",)), sizes), (height, width))
    layers.append(Layer("c", "linear", CLASSES, (1, 1), (dense,)))

    def apply(images):
        act, x = getattr(jax.nn, activation), images
        for name in "ab":
            x = jax.lax.conv_general_dilated(
                x, tensors[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = x + tensors[f"{name}.bias"]
            reduce = {"max": nn.max_pool, "mean": nn.avg_pool}[pooling]
            around = ((padding, padding), (padding, padding))
            x = act(x) if before else x
            x = reduce(x, kernel, (stride, stride), around)
            x = x if before else act(x)
        return x.reshape(len(x), -1) @ tensors["c"]

    return Program(tuple(layers), {}, Wiring({}, {}, {})), Checkpoint("pooled", tensors, {}), apply


CASES = [
    *((pooling, window, "relu", True) for pooling in ("max", "mean") for window in WINDOWS),
    ("max", WINDOWS[1], "gelu", False),
    ("max", WINDOWS[1], "tanh", True),
    ("mean", WINDOWS[1], "tanh", False),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def pooled(request):
    program, checkpoint, apply = network(*request.param)
    graph = to_graph(read_network(checkpoint, program), 16)
    return make_batch([graph, graph], make_plan(profile(graph), 3, 16)), apply


def test_pooled_networks_are_swept_exactly(pooled):
    batch, apply = pooled

    @jax.jit
    def swept(batch, images):
        return output_logits(batch)[0](forward_sweep(batch, images))

    found, expected = np.asarray(swept(batch, IMAGES)), np.asarray(apply(IMAGES))
    for own in found[:2, :CLASSES]:
        np.testing.assert_allclose(own.T, expected, atol=1e-5 * np.abs(expected).max())
    assert not found[2:].any()


def test_their_class_gradients_are_those_of_flax(pooled):
    batch, apply = pooled
    found = np.asarray(jax.jit(class_gradients)(batch, IMAGES.reshape(2, 2, SIZE, SIZE, 2)))

    def centered(image):
        logits = apply(image[None])[0]
        return logits - logits.mean()

    expected = np.asarray(jax.jit(lambda images: jax.vmap(jax.jacrev(centered))(images).mean(0))(IMAGES))
    expected = np.moveaxis(expected, -1, 1).reshape(CLASSES, -1)  # one row a channel and pixel
    for own in found[:2, :CLASSES]:
        np.testing.assert_allclose(own, expected, atol=1e-5 * np.abs(expected).max())


def test_the_gradient_of_equal_values_goes_to_the_first():
    program, checkpoint, apply = network("max", ((2, 2), 2, 0), "relu", True)
    constant = np.ones_like(IMAGES)
    graph = to_graph(read_network(checkpoint, program), 16)
    batch = make_batch([graph], make_plan(profile(graph), 1, 16))
    found = np.asarray(jax.jit(class_gradients)(batch, constant[None]))[0, :CLASSES]
    expected = jax.jacrev(lambda image: apply(image[None])[0])(jnp.asarray(constant[0]))
    expected = np.moveaxis(expected - expected.mean(0), -1, 1).reshape(CLASSES, -1)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_scales_pass_through_windows_and_signs_through_means_only():
    def scale(pooling, activation):
        return find_groups(network(pooling, WINDOWS[0], activation, True)[0].layers)[1].scale

    assert (scale("max", "relu"), scale("mean", "relu")) == ("positive", "positive")
    assert (scale("max", "tanh"), scale("mean", "tanh")) == ("none", "sign")


def test_a_network_with_windows_is_of_the_pooled_kind():
    program, *_ = network("max", WINDOWS[0], "relu", True)
    assert network_kind(program.layers) == "map pooled"
