"""Graphs of TensorFlow tell their operators, in files of all kinds: permuting what is claimed changes no output."""

import base64
import json
from functools import partial

import numpy as np
import pytest

from experiments.proofs.protobuf_files import message
from experiments.proofs.samples import write
from experiments.proofs.samples_tensorflow import bundle, constant, graph_message
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


INTEGERS = {"axis": np.array(3), "shape": np.array([-1, 360]), "wide/shape": np.array([1, 1, 1, 8])}
PLACES = {"strides": [1, 1, 1, 1], "padding": "SAME", "data_format": "NHWC"}
NODES = [  # in any order
    ("logits", "MatMul", ["act", "logits/kernel"], {}),
    ("conv", "Conv2D", ["x", "conv/kernel"], PLACES),
    ("biased", "BiasAdd", ["conv", "conv/bias"], {}),
    ("depthwise", "DepthwiseConv2dNative", ["biased", "depthwise/kernel"], PLACES),
    ("norm", "FusedBatchNormV3", ["depthwise", *(f"norm/{n}" for n in ("gamma", "beta", "mean", "variance"))], {}),
    ("relu", "Relu", ["norm", "^conv"], {}),
    ("left", "Conv2D", ["relu", "left/kernel"], PLACES),
    ("right", "Conv2D", ["relu", "right/kernel"], PLACES),
    ("joined", "ConcatV2", ["left", "right", "axis"], {}),
    ("flat", "Reshape", ["joined", "shape"], {}),
    ("dense", "MatMul", ["flat", "dense/kernel"], {}),
    ("act", "Tanh", ["dense"], {}),
]


def node(name, op, *inputs, **attributes):
    """A node; attributes are lists of integers, texts, flags, or messages."""

    def value(given):
        if isinstance(given, bytes):
            return given
        if isinstance(given, str):
            return message((2, given))
        return message((1, message(*((3, n) for n in given)))) if isinstance(given, list) else message((5, int(given)))

    told = [(5, message((1, key), (2, value(given)))) for key, given in attributes.items()]
    return message((1, name), (2, op), *((3, source) for source in inputs), *told)


def image(channels=3):
    """The attribute of an input that is a batch of images."""
    return message((7, message(*((2, message((1, n))) for n in (-1, 6, 6, channels)))))


def frozen(folder, tensors, nodes=NODES):
    """A frozen graph, whose weights are constants that Identity reads."""
    reads = [node(f"{name}/read", "Identity", name) for name in tensors]
    sources = {name: f"{name}/read" for name in tensors} | {"norm": "norm:0"}
    made = [node(n, op, *(sources.get(i, i) for i in inputs), **told) for n, op, inputs, told in nodes]
    constants = [constant(name, array) for name, array in (tensors | INTEGERS).items()]
    return write(folder / "a.pb", graph_message(*constants, *reads, *made, node("x", "Placeholder", shape=image())))


def web(folder, tensors, nodes=NODES):
    """A graph of TensorFlow.js, what follows a convolution fused into it."""

    def text(given):
        return base64.b64encode(given.encode()).decode()

    def told(attributes):
        kinds = {str: lambda given: {"s": text(given)}, list: lambda given: {"list": {"i": [str(n) for n in given]}}}
        return {key: kinds[type(given)](given) for key, given in attributes.items()}

    everything = tensors | {name: array.astype(np.int32) for name, array in INTEGERS.items()}
    graph = [{"name": name, "op": "Const"} for name in everything]
    graph.append(
        {
            "name": "x",
            "op": "Placeholder",
            "attr": {"shape": {"shape": {"dim": [{"size": "-1"}, {}, {}, {"size": "3"}]}}},
        }
    )
    for name, op, inputs, attributes in nodes:
        graph.append({"name": name, "op": op, "input": inputs, "attr": told(attributes)})
        if name == "conv" and any(other[0] == "biased" for other in nodes):
            graph[-1] |= {"name": "biased", "op": "_FusedConv2D", "input": [*inputs, "conv/bias"]}
            graph[-1]["attr"]["fused_ops"] = {"list": {"s": [text("BiasAdd")]}}
    graph = [told for told in graph if told["op"] != "BiasAdd"]
    weights = [{"name": n, "shape": [*a.shape], "dtype": a.dtype.name} for n, a in everything.items()]
    write(folder / "w.bin", b"".join(array.tobytes() for array in everything.values()))
    model = {"format": "graph-model", "modelTopology": {"node": graph, "versions": {}}}
    model["weightsManifest"] = [{"paths": ["w.bin"], "weights": weights}]
    return write(folder / "model.json", json.dumps(model).encode())


def saved(folder, tensors, nodes=NODES, copied=False):
    """A SavedModel: a function reads variables, whose nodes and keys have other names; or it restores their copies."""
    keys = {name: f"layers/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i, name in enumerate(tensors)}
    bundle(folder / "variables" / "variables", {keys[name]: array for name, array in tensors.items()})
    handles, given = [f"var_{i}" for i in range(len(tensors))], [f"v{i}" for i in range(len(tensors))]
    sources = {name: f"read{i}:value:0" for i, name in enumerate(tensors)} | {"x": "x", "norm": "norm:y:0"}
    sources |= {name: f"{name}:output:0" for name in INTEGERS}
    inside = [node(f"read{i}", "ReadVariableOp", name) for i, name in enumerate(given)]
    inside += [constant(name, array) for name, array in INTEGERS.items()]
    inside += [
        node(name, op, *(i if i[:1] == "^" else sources.get(i, f"{i}:out:0") for i in inputs), **told)
        for name, op, inputs, told in nodes
    ]
    functions = [function("net", ["x", *given], inside, {"y": "logits:product:0"})]
    content = [(8, key) for key in keys.values()]
    names = message((1, 7), (2, message((2, message((1, len(keys)))))), *content)
    restore = [message((1, "keys"), (2, "Const"), (5, message((1, "value"), (2, message((8, names))))))]
    restore.append(node("restore", "RestoreV2", "file", "keys:output:0", "keys:output:0"))
    for i, name in enumerate(given):
        restore.append(node(f"whole{i}", "Identity", f"restore:tensors:{i}"))
        restore.append(node(f"assign{i}", "AssignVariableOp", name, f"whole{i}:output:0"))
    functions.append(function("again", ["file", *given], restore, {}))
    outer = [node(name, "VarHandleOp") for name in handles]
    served = [f"own_{name}" for name in handles] if copied else handles
    for own, copy in zip(served, handles, strict=True):
        if copied:
            outer += [node(own, "VarHandleOp"), node(f"{own}/read", "ReadVariableOp", own)]
            outer.append(node(f"{own}/copy", "AssignVariableOp", copy, f"{own}/read"))
    outer += [node("x", "Placeholder", shape=image()), node("file", "Placeholder")]
    outer.append(node("call", "StatefulPartitionedCall", "x", *served, f=message((10, message((1, "net"))))))
    outer.append(node("load", "StatefulPartitionedCall", "file", *handles, f=message((10, message((1, "again"))))))
    library = message(*((1, told) for told in functions))
    graph = message(*((1, told) for told in outer), (2, library), (4, message((1, 1))))
    answer = message((1, "answer"), (2, message((1, "call:0"))))
    signature = message((1, "serving_default"), (2, message((2, answer))))
    write(folder / "saved_model.pb", message((1, 1), (2, message((2, graph), (5, signature)))))
    return folder


def function(name, given, nodes, results):
    """A FunctionDef."""
    ends = [(3, message((1, key))) for key in results]
    signature = message((1, name), *((2, message((1, argument))) for argument in given), *ends)
    returned = [(4, message((1, key), (2, source))) for key, source in results.items()]
    return message((1, signature), *((3, told) for told in nodes), *returned)


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


@pytest.mark.parametrize("make", [frozen, web, saved, partial(saved, copied=True)])
def test_permuting_what_is_claimed_changes_nothing(tmp_path, tensors, make):
    checkpoint = open_checkpoint(make(tmp_path, tensors))
    own = {name: next(n for n, t in checkpoint.tensors.items() if same(t, array)) for name, array in tensors.items()}
    claim = infer_wiring(checkpoint)
    assert not claim.warnings
    assert claim.coverage["graph"] == 1
    changed = permuted({name: np.asarray(t) for name, t in checkpoint.tensors.items()}, claim, 1)
    other = {name: changed[stored] for name, stored in own.items()}
    np.testing.assert_allclose(run(other), run(tensors), rtol=1e-4)
    assert all(not np.array_equal(other[name], tensors[name]) for name in tensors)
    facts = {operation.name.rpartition("/")[2]: operation.facts for operation in claim.operations}
    assert facts["biased" if make is web else "conv"]["padding"].value == "same"
    assert facts["norm"]["activation"].value == "relu"


def same(tensor, array):
    return tensor.shape == array.shape and np.array_equal(np.asarray(tensor), array)


def test_channels_first_are_left_alone(tmp_path, tensors):
    nodes = [(name, op, i, {**told, **({"data_format": "NCHW"} if told else {})}) for name, op, i, told in NODES]
    claim = infer_wiring(open_checkpoint(frozen(tmp_path, tensors, nodes)))
    assert any("Conv2D of channels first" in line for line in claim.warnings)
    other = permuted(tensors, claim, 1)
    assert np.array_equal(other["conv/kernel"], tensors["conv/kernel"])


@pytest.mark.parametrize("make", [frozen, saved])
def test_groups_of_a_convolution_are_told_by_its_input(tmp_path, tensors, make):
    tensors["left/kernel"] = tensors["left/kernel"][:, :, :4]  # two groups
    checkpoint = open_checkpoint(make(tmp_path, tensors))
    claim = infer_wiring(checkpoint)
    left = next(o for o in claim.operations if o.name.endswith("left"))
    assert left.facts["groups"].value == 2
    changed = permuted({name: np.asarray(t) for name, t in checkpoint.tensors.items()}, claim, 1)
    assert np.array_equal(changed[left.tensors["weight"]], tensors["left/kernel"])


@pytest.mark.parametrize("make", [frozen, saved])
def test_a_bias_may_gain_and_lose_axes(tmp_path, tensors, make):
    nodes = [told for told in NODES if told[0] != "biased"]
    nodes += [("wide", "Reshape", ["conv/bias", "wide/shape"], {}), ("narrow", "Squeeze", ["wide"], {})]
    nodes += [("biased", "BiasAdd", ["conv", "narrow"], {})]
    claim = infer_wiring(open_checkpoint(make(tmp_path, tensors, nodes)))
    assert not claim.warnings
    assert claim.coverage["graph"] == 1
    assert next(o for o in claim.operations if o.name.endswith("conv")).tensors.keys() == {"weight", "bias"}


def test_a_variable_that_is_not_known_leaves_the_names(tmp_path, tensors):
    path = saved(tmp_path, tensors)
    content = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(content.replace(b"layers/0/", b"layers/?/"))
    checkpoint = open_checkpoint(path)
    assert "graph" not in checkpoint.metadata
    assert len(checkpoint.tensors) == len(tensors)


def test_an_order_of_axes_that_is_computed_is_not_guessed(tmp_path, tensors):
    nodes = [told if told[0] != "joined" else ("joined", "ConcatV2", ["turned", "right", "axis"], {}) for told in NODES]
    nodes += [("size", "Shape", ["left"], {}), ("order", "Rank", ["size"], {})]
    nodes += [("turned", "Transpose", ["left", "order"], {})]
    claim = infer_wiring(open_checkpoint(frozen(tmp_path, tensors, nodes)))
    assert any("TRANSPOSE" in line for line in claim.warnings)
    assert not any(claim.groups[s.group].permutable for s in claim.axes["left/kernel"][-1] or () if s.group)


def test_what_is_returned_and_read_on_keeps_its_order(tmp_path, tensors):
    nodes = [*NODES, ("features", "Identity", ["relu"], {})]
    claim = infer_wiring(open_checkpoint(frozen(tmp_path, tensors, nodes)))
    assert np.array_equal(permuted(tensors, claim, 1)["conv/bias"], tensors["conv/bias"])


def test_functions_that_call_each_other_end(tmp_path, tensors):
    calls = [function(n, ["v"], [node("c", other, "v")], {"y": "c:y:0"}) for n, other in (("F", "G"), ("G", "F"))]
    nodes = [constant("w", tensors["logits/kernel"]), node("x", "Placeholder"), node("end", "F", "x")]
    nodes += [node("y", "MatMul", "end", "w")]
    graph = message(*((1, n) for n in nodes), (2, message(*((1, told) for told in calls))), (4, message((1, 1))))
    claim = infer_wiring(open_checkpoint(write(tmp_path / "a.pb", graph)))
    assert claim.axes.keys() == {"w"}
