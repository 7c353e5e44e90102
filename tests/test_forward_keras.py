"""Configurations of Keras models are run as ONNX's reference evaluator runs what they stand for."""

import numpy as np
import pytest
from test_forward import images, node, weights
from test_forward_tflite import reference

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.forward.from_checkpoint import forward_graph
from wsrl.forward.run import run

WINDOW = {"padding": "same", "strides": [2, 2]}


def layer(kind, name, *inbound, new=False, **config):
    """A layer in the form of Keras 2, or in the new one of Keras 3."""
    told = {"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": [n, 0, 0]}} for n in inbound]}
    nodes = [told] if new else [[[name, 0, 0, {}] for name in inbound]]
    return {
        "class_name": kind,
        "name": name,
        "config": {"name": name, **config},
        "inbound_nodes": nodes if inbound else [],
    }


def model(layers, name="model"):
    first, last = layers[0]["name"], layers[-1]["name"]
    own = {"name": name, "layers": layers, "input_layers": [[first, 0, 0]], "output_layers": [[last, 0, 0]]}
    return {"class_name": "Functional", "config": own}


def answered(config, tensors, x, version="3.0"):
    checkpoint = Checkpoint(
        "model.keras", tensors, {"format": "Keras", "keras_config": config, "keras_version": version}
    )
    graph = forward_graph(checkpoint)
    assert graph.channels_last
    return run(graph, checkpoint, x)


def norm(name, units):
    arrays = {role: weights(units, seed=i) for i, role in enumerate(("gamma", "beta", "moving_mean"))}
    return {f"{name}/{role}": a for role, a in {**arrays, "moving_variance": np.abs(weights(units)) + 1}.items()}


@pytest.mark.parametrize("new", [False, True])
def test_an_image_classifier_within_another_model(tmp_path, new):
    """Convolutions of three kinds, norms, a residual sum, pooling; the first half is a model of its own."""
    tensors = {"inner/c/kernel": weights(3, 3, 2, 4), "inner/c/bias": weights(4), **norm("inner/n", 4)}
    tensors |= {"d/depthwise_kernel": weights(3, 3, 4, 1), "h/kernel": weights(6, 5), "h/bias": weights(5)}
    tensors |= {"s/depthwise_kernel": weights(3, 3, 4, 1, seed=1), "s/pointwise_kernel": weights(1, 1, 4, 6)}
    start = layer("InputLayer", "x", batch_input_shape=[None, 8, 8, 2])
    inner = [
        layer("InputLayer", "i", batch_input_shape=[None, 8, 8, 2]),
        layer("Conv2D", "c", "i", new=new, activation="linear", **WINDOW),
        layer("BatchNormalization", "n", "c", new=new, axis=[3], epsilon=0.01),
        layer("ReLU", "r", "n", new=new, max_value=6.0),
    ]
    within = {**model(inner, "inner"), "name": "inner", "inbound_nodes": layer("", "", "x", new=new)["inbound_nodes"]}
    config = model(
        [
            start,
            within,
            layer("DepthwiseConv2D", "d", "inner", new=new, padding="same", strides=[1, 1], use_bias=False),
            layer("Add", "a", "inner", "d", new=new),
            layer("SeparableConv2D", "s", "a", new=new, padding="valid", strides=[1, 1], activation="relu"),
            layer("Dropout", "o", "s", new=new),
            layer("GlobalAveragePooling2D", "p", "o", new=new),
            layer("Dense", "h", "p", new=new, activation="softmax"),
        ]
    )
    x = images(2, 8, 8, 2)
    own = {"c": tensors["inner/c/kernel"].transpose(3, 2, 0, 1), "cb": tensors["inner/c/bias"]}
    own |= {
        key: tensors[f"inner/n/{role}"]
        for key, role in zip("gbmv", ("gamma", "beta", "moving_mean", "moving_variance"), strict=True)
    }
    own |= {
        "d": tensors["d/depthwise_kernel"].transpose(2, 3, 0, 1),
        "e": tensors["s/depthwise_kernel"].transpose(2, 3, 0, 1),
    }
    own |= {"f": tensors["s/pointwise_kernel"].transpose(3, 2, 0, 1), "h": tensors["h/kernel"], "hb": tensors["h/bias"]}
    own |= {"zero": np.float32(0), "six": np.float32(6), "axes": np.array([2, 3])}
    nodes = [
        node("Transpose", "x", "0", perm=[0, 3, 1, 2]),
        node("Conv", "0 c cb", "1", strides=[2, 2], pads=[0, 0, 1, 1]),
        node("BatchNormalization", "1 g b m v", "2", epsilon=0.01),
        node("Clip", "2 zero six", "3"),
        node("Conv", "3 d", "4", pads=[1] * 4, group=4),
        node("Add", "3 4", "5"),
        node("Conv", "5 e", "6", group=4),
        node("Conv", "6 f", "7"),
        node("Relu", "7", "8"),
        node("ReduceMean", "8 axes", "9", keepdims=0),
        node("Gemm", "9 h hb", "10"),
        node("Softmax", "10", "y", axis=1),
    ]
    np.testing.assert_allclose(answered(config, tensors, x), reference(own, nodes, x), rtol=1e-4, atol=1e-6)


def chain(*layers):
    return {"class_name": "Sequential", "config": {"name": "chain", "layers": list(layers)}}


def test_a_chain(tmp_path):
    x = images(2, 6, 6, 1)
    config = chain(
        layer("Rescaling", "r", scale=0.5, offset=-1.0, batch_input_shape=[None, 6, 6, 1]),
        layer("ZeroPadding2D", "z", padding=[[1, 0], [0, 2]]),
        layer("MaxPooling2D", "m", pool_size=[2, 2], strides=None, padding="valid"),
        layer("Cropping2D", "c", cropping=[[0, 1], [1, 0]]),
        layer("Flatten", "f"),
        layer("Dense", "d", activation="tanh"),
    )
    padded = np.pad(x * 0.5 - 1, [(0, 0), (1, 0), (0, 2), (0, 0)])[:, :6]
    expected = padded.reshape(2, 3, 2, 4, 2, 1).max((2, 4))[:, :2, 1:].reshape(2, 6)
    kernel = weights(6, 3)
    np.testing.assert_allclose(answered(config, {"d/kernel": kernel}, x), np.tanh(expected @ kernel), atol=1e-5)


@pytest.mark.parametrize(("version", "slope"), [("2.3.1", 0.2), ("3.1", 1 / 6)])
def test_hard_sigmoid_of_both_versions(version, slope):
    config = chain(layer("Dense", "d", activation="hard_sigmoid", batch_input_shape=[None, 4]))
    x, kernel = images(2, 4), weights(4, 3)
    found = answered(config, {"d/kernel": kernel}, x, version)
    np.testing.assert_allclose(found, np.clip(slope * (x @ kernel) + 0.5, 0, 1), atol=1e-5)


def test_what_is_not_known_is_named():
    start = {"batch_input_shape": [None, 4]}
    with pytest.raises(CheckpointError, match="operator Foo is not known"):
        answered(chain(layer("Foo", "d", **start)), {}, images(2, 4))
    with pytest.raises(CheckpointError, match="operator activation mine is not known"):
        answered(chain(layer("Dense", "d", activation="mine", **start)), {"d/kernel": weights(4, 3)}, images(2, 4))
    with pytest.raises(CheckpointError, match="lacks its kernel"):
        answered(chain(layer("Dense", "d", **start)), {}, images(2, 4))
    two = model([layer("InputLayer", "a"), layer("Dense", "d", "a")])
    two["config"]["input_layers"] = [["a", 0, 0], ["b", 0, 0]]
    with pytest.raises(CheckpointError, match="it reads 2 values"):
        answered(two, {}, images(2, 4))
