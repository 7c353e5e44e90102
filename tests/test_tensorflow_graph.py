"""Frozen graphs of TensorFlow tell their operators: permuting what is claimed leaves outputs as they were."""

import numpy as np
import pytest

from experiments.proofs.protobuf_files import message
from experiments.proofs.samples import write
from experiments.proofs.samples_tensorflow import constant, graph_message
from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

X = np.random.default_rng(1).standard_normal((6, 6, 3))
SHAPES = {
    "conv/kernel": (3, 3, 3, 8),
    "conv/bias": (8,),
    "depthwise/kernel": (3, 3, 8, 1),
    **{f"norm/{name}": (8,) for name in ("gamma", "beta", "mean", "variance")},
    "left/kernel": (1, 1, 8, 6),
    "right/kernel": (1, 1, 8, 4),
    "dense/kernel": (360, 7),
    "logits/kernel": (7, 5),
}


def node(name, op, *inputs, **attributes):
    """A node; attributes are lists of integers, texts or flags."""

    def value(given):
        if isinstance(given, str):
            return message((2, given))
        return message((1, message(*((3, n) for n in given)))) if isinstance(given, list) else message((5, int(given)))

    told = [(5, message((1, key), (2, value(given)))) for key, given in attributes.items()]
    return message((1, name), (2, op), *((3, source) for source in inputs), *told)


def frozen(path, tensors, kernel_order="NHWC"):
    reads = [node(f"{name}/read", "Identity", name) for name in tensors]
    places = {"strides": [1, 1, 1, 1], "padding": "SAME", "data_format": kernel_order}
    norms = [f"norm/{name}/read" for name in ("gamma", "beta", "mean", "variance")]
    nodes = [
        node("logits", "MatMul", "act", "logits/kernel/read"),  # nodes may lie in any order
        node("x", "Placeholder"),
        node("conv", "Conv2D", "x", "conv/kernel/read", **places),
        node("biased", "BiasAdd", "conv", "conv/bias/read"),
        node("depthwise", "DepthwiseConv2dNative", "biased", "depthwise/kernel/read", **places),
        node("norm", "FusedBatchNormV3", "depthwise", *norms),
        node("relu", "Relu", "norm:0", "^conv"),
        node("left", "Conv2D", "relu", "left/kernel/read", **places),
        node("right", "Conv2D", "relu", "right/kernel/read", **places),
        node("joined", "ConcatV2", "left", "right", "axis"),
        node("flat", "Reshape", "joined", "shape"),
        node("dense", "MatMul", "flat", "dense/kernel/read"),
        node("act", "Tanh", "dense"),
    ]
    integers = {"axis": np.array(3), "shape": np.array([-1, 360])}
    constants = [constant(name, array) for name, array in (tensors | integers).items()]
    return write(path, graph_message(*constants, *reads, *nodes))


def conv(x, kernel):
    r = kernel.shape[0] // 2
    padded = np.pad(x, ((r, r), (r, r), (0, 0)))
    taps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    form = "hwc,c->hwc" if kernel.shape[3] == 1 else "hwc,co->hwo"
    kernels = [kernel[i, j, :, 0] if kernel.shape[3] == 1 else kernel[i, j] for i, j in taps]
    return sum(np.einsum(form, padded[i : i + 6, j : j + 6], k) for (i, j), k in zip(taps, kernels, strict=True))


def run(t):
    y = conv(conv(X, t["conv/kernel"]) + t["conv/bias"], t["depthwise/kernel"])
    y = (y - t["norm/mean"]) / np.sqrt(t["norm/variance"] ** 2 + 1) * t["norm/gamma"] + t["norm/beta"]
    y = np.maximum(y, 0)
    y = np.concatenate([conv(y, t["left/kernel"]), conv(y, t["right/kernel"])], axis=2)
    return np.tanh(y.reshape(-1) @ t["dense/kernel"]) @ t["logits/kernel"]


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_permuting_what_is_claimed_changes_nothing(tmp_path, tensors):
    claim = infer_wiring(open_checkpoint(frozen(tmp_path / "a.pb", tensors)))
    assert not claim.warnings
    assert claim.coverage["graph"] == 1
    other = permuted(tensors, claim, 1)
    np.testing.assert_allclose(run(other), run(tensors), rtol=1e-4)
    assert all(not np.array_equal(other[name], tensors[name]) for name in tensors)
    facts = {operation.name: operation.facts for operation in claim.operations}
    assert facts["conv"]["padding"].value == "same"
    assert facts["norm"]["activation"].value == "relu"


def test_channels_first_are_left_alone(tmp_path, tensors):
    claim = infer_wiring(open_checkpoint(frozen(tmp_path / "a.pb", tensors, "NCHW")))
    assert any("Conv2D of channels first" in line for line in claim.warnings)
    other = permuted(tensors, claim, 1)
    assert np.array_equal(other["conv/kernel"], tensors["conv/kernel"])
