"""Networks whose files tell how they run, ONNX graphs and Keras configurations, run as they say and assume nothing."""

import flax.linen as nn
import jax
import numpy as np
import onnx
import pytest
from networks import draw_network
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.encoder.dense_layers import dense_layers
from wsrl.encoder.dense_network import dense_network
from wsrl.encoder.dense_sweep import Inputs, sweep_network
from wsrl.graph.collection import checkpoint_graph
from wsrl.program.network import read_network
from wsrl.program.read import read_programs
from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 12, 12, 1)).astype(np.float32)


def draw(*shape):
    return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def answers(checkpoint, images=IMAGES):
    """Logits of the one program of a checkpoint, as its layers and its canonical graph of tiles compute them."""
    (program,) = read_programs(checkpoint)
    assert program.assumed == ()
    found, _ = sweep_network(dense_layers(read_network(checkpoint, program)), Inputs(images), None, False)
    swept, _ = sweep_network(dense_network(checkpoint_graph(checkpoint, 16)), Inputs(images), None, True)
    np.testing.assert_allclose(swept, found, atol=1e-4)
    return found.T


def onnx_file(path, nodes, tensors):
    """An ONNX model from images [n, 1, 12, 12] to y [n, 5]."""
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 1, 12, 12]), ("y", ["n", 5]))
    ]
    stored = [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], stored))
    path.write_bytes(model.SerializeToString())
    return open_checkpoint(path), ReferenceEvaluator(model)


def node(op, *inputs, to, **attributes):
    return helper.make_node(op, list(inputs), [to], **attributes)


CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
FIRST = [node("Conv", "x", "k1", "b1", to="c1", **CONV), node("Relu", "c1", to="a1")]
TENSORS = {"k1": draw(8, 1, 3, 3), "b1": draw(8), "k2": draw(8, 8, 3, 3), "b2": draw(8)}
PROGRAMS = {
    "pooled and flattened": [
        *(*FIRST, node("MaxPool", "a1", to="p1", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])),
        *(node("Conv", "p1", "k2", "b2", to="c2", kernel_shape=[3, 3]), node("Tanh", "c2", to="a2")),
        *(node("Flatten", "a2", to="f"), node("Gemm", "f", "w", "b", to="y", transB=1)),
    ],
    "pooled before the activation": [
        *(node("Conv", "x", "k1", "b1", to="c1", **CONV), node("AveragePool", "c1", to="p1", kernel_shape=[2, 2])),
        *(node("Tanh", "p1", to="a1"), node("Conv", "a1", "k2", "b2", to="c2", strides=[2, 2], **CONV)),
        *(node("Sigmoid", "c2", to="s"), node("Mul", "c2", "s", to="a2"), node("GlobalAveragePool", "a2", to="g")),
        *(node("Flatten", "g", to="f"), node("Gemm", "f", "w", "b", to="z", transB=1), node("Identity", "z", to="y")),
    ],
    "residual": [
        *(*FIRST, node("Conv", "a1", "k2", "b2", to="c2", **CONV), node("Add", "c2", "a1", to="s")),
        *(node("Relu", "s", to="a2"), node("GlobalAveragePool", "a2", to="g"), node("Flatten", "g", to="f")),
        node("Gemm", "f", "w", "b", to="y", transB=1),
    ],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_graphs_run_as_they_say(tmp_path, name):
    widths = {"pooled and flattened": 8 * 16}
    tensors = TENSORS | {"w": draw(5, widths.get(name, 8)), "b": draw(5)}
    checkpoint, evaluator = onnx_file(tmp_path / "net.onnx", PROGRAMS[name], tensors)
    (expected,) = evaluator.run(None, {"x": IMAGES.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(answers(checkpoint), expected, atol=1e-5)
    assert read_programs(checkpoint)[0].facts["input"].source == "graph"


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        ([node("LeakyRelu", "c1", to="a1", alpha=0.3)], "slope 0.3"),
        ([node("Relu", "c1", to="r"), node("LRN", "r", to="a1", size=3)], "LRN after"),
        ([node("Relu", "c1", to="r"), node("Tanh", "r", to="a1")], "second tanh"),
        ([node("Elu", "c1", to="a1")], "activation elu"),
    ],
)
def test_what_the_sweep_does_not_know_is_named(tmp_path, between, reason):
    end = [node("GlobalAveragePool", "a1", to="g"), node("Flatten", "g", to="f")]
    nodes = [FIRST[0], *between, *end, node("Gemm", "f", "w", "b", to="y", transB=1)]
    tensors = TENSORS | {"w": draw(5, 8), "b": draw(5)}
    checkpoint, _ = onnx_file(tmp_path / "net.onnx", nodes, tensors)
    with pytest.raises(CheckpointError, match=reason):
        read_programs(checkpoint)


def layer(kind, **config):
    return {"class_name": kind, "config": config}


def keras_checkpoint(*middle):
    """A Keras model of two convolutions and two dense layers, with some layers between the convolutions."""
    tensors = {"c1/kernel": draw(3, 3, 1, 8), "c1/bias": draw(8), "c2/kernel": draw(3, 3, 8, 4), "c2/bias": draw(4)}
    tensors |= {"d1/kernel": draw(36, 6), "d1/bias": draw(6), "d2/kernel": draw(6, 5), "d2/bias": draw(5)}
    config = layer(
        "Sequential",
        layers=[
            layer("InputLayer", batch_shape=[None, 12, 12, 1], name="input"),
            layer("Conv2D", name="c1", strides=[2, 2], padding="same", activation="linear"),
            *middle,
            layer("Conv2D", name="c2", strides=[1, 1], padding="valid", activation="tanh"),
            layer("ZeroPadding2D", name="z") if not middle else layer("Dropout", name="o", rate=0.5),
            layer("Flatten", name="f"),
            layer("Dense", name="d1", activation="silu"),
            layer("Dense", name="d2", activation="softmax"),
        ],
    )
    return Checkpoint("net.keras", tensors, {"keras_config": config})


POOL = layer("MaxPooling2D", name="p", pool_size=[2, 2], strides=[1, 1], padding="valid")


def test_configurations_of_keras_tell_all():
    checkpoint = keras_checkpoint(layer("Activation", name="a", activation="relu"), POOL)
    t = checkpoint.tensors

    def conv(x, name, stride, padding):
        form = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, t[f"{name}/kernel"], stride, padding, dimension_numbers=form)

    x = jax.nn.relu(conv(IMAGES, "c1", (2, 2), "SAME") + t["c1/bias"])
    x = nn.max_pool(x, (2, 2), (1, 1))
    x = jax.numpy.tanh(conv(x, "c2", (1, 1), "VALID") + t["c2/bias"]).reshape(3, -1)
    expected = jax.nn.silu(x @ t["d1/kernel"] + t["d1/bias"]) @ t["d2/kernel"] + t["d2/bias"]
    np.testing.assert_allclose(answers(checkpoint), expected, atol=1e-5)
    assert [o.source for o in infer_wiring(checkpoint).operations] == ["config"] * 4


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        ((layer("LeakyReLU", name="a", negative_slope=0.3), POOL), "LeakyReLU of other settings after c1"),
        ((layer("UpSampling2D", name="u", size=[2, 2]), POOL), "UpSampling2D after c1"),
        ((layer("GlobalMaxPooling2D", name="g"),), "pooling after c1"),
        ((), "ZeroPadding2D after c2"),
    ],
)
def test_layers_of_keras_that_the_sweep_does_not_know_are_named(middle, reason):
    with pytest.raises(CheckpointError, match=reason):
        read_programs(keras_checkpoint(*middle))


def test_networks_without_hidden_layers_have_no_activation():
    tensors = {"fc.weight": np.ones((5, 144), np.float32)}
    (program,) = read_programs(Checkpoint("linear.pt", tensors, {}))
    assert program.values == {"input": "12x12x1"}


def test_programs_are_kept_for_networks_of_one_form():
    first, second = (draw_network("mlp", 0, seed)[0] for seed in (0, 1))
    told = Checkpoint(second.path, second.tensors, {**second.metadata, "activation": "tanh"})
    assert read_programs(first)[0] is read_programs(Checkpoint("other", second.tensors, first.metadata))[0]
    assert read_programs(told)[0].values["activation"] == "tanh"
