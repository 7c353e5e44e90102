"""Operations: their order, what they read and write, and what is known of them, from names and from graphs."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import tflite
from onnx import helper
from onnx.reference import ReferenceEvaluator

from experiments.proofs.samples_onnx import onnx_model
from experiments.proofs.samples_tflite import TfliteWriter
from wsrl.canonical import canonicalize
from wsrl.canonical.norms import find_folds
from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.wiring import infer_wiring as module
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted, rescaled
from wsrl.wiring.wiring import Fact

rng = np.random.default_rng(0)


def checkpoint(shapes, **metadata):
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return Checkpoint("f", {n: np.abs(t) if "var" in n else t for n, t in tensors.items()}, metadata)


def operations(shapes, **metadata):
    return infer_wiring(checkpoint(shapes, **metadata)).operations


def by_name(found):
    return {operation.name: operation for operation in found}


def linear(path, out, into):
    return {f"{path}.weight": (out, into), f"{path}.bias": (out,)}


def norm(path, size):
    return {f"{path}.weight": (size,), f"{path}.bias": (size,)}


def batch_norm(path, size):
    return norm(path, size) | {f"{path}.running_mean": (size,), f"{path}.running_var": (size,)}


def block(path, width=8):
    shapes = {f"{path}.attn.qkv.weight": (3 * width, width), f"{path}.attn.proj.weight": (width, width)}
    shapes |= linear(f"{path}.mlp.fc1", 12, width) | linear(f"{path}.mlp.fc2", width, 12)
    return shapes | norm(f"{path}.norm1", width) | norm(f"{path}.norm2", width)


def transformer(final_norm=True):
    shapes = {"patch_embed.proj.weight": (8, 3, 4, 4), "pos_embed": (1, 9, 8)} | block("blocks.0") | block("blocks.1")
    return shapes | linear("head", 5, 8) | (norm("norm", 8) if final_norm else {})


def test_layers_read_and_write():
    shapes = {"conv1.weight": (6, 3, 3, 3), "conv1.bias": (6,)} | batch_norm("bn1", 6) | linear("fc", 4, 6)
    conv, bn, fc = operations(shapes)
    assert (conv.name, conv.type, conv.inputs) == ("conv1", "conv", ())
    assert conv.tensors == {"weight": "conv1.weight", "bias": "conv1.bias"}
    assert conv.reads == (("conv1.weight", 1),)
    assert conv.writes == (("conv1.weight", 0), ("conv1.bias", 0))
    assert list(conv.weights()) == [("conv1.weight", (0,), "conv1.bias")]
    assert (bn.type, bn.inputs, bn.reads) == ("batch norm", (0,), bn.writes)
    assert bn.tensors["mean"] == "bn1.running_mean" and bn.tensors["gain"] == "bn1.weight"
    assert (fc.type, fc.reads, fc.inputs) == ("linear", (("fc.weight", 1),), (1,))
    assert conv.facts["kernel"] == Fact((3, 3), "shapes")


def test_inputs_first_weights_write_their_last_axis():
    found = operations({"a/kernel": (5, 12), "a/bias": (12,), "b/kernel": (12, 3), "b/bias": (3,)})
    assert [o.reads for o in found] == [(("a/kernel", 0),), (("b/kernel", 0),)]
    assert [o.writes[0] for o in found] == [("a/kernel", 1), ("b/kernel", 1)]


def test_embedding_and_lstm():
    shapes = {"embedding.weight": (30, 6), "lstm.weight_ih_l0": (32, 6), "lstm.weight_hh_l0": (32, 8)}
    shapes |= {"lstm.bias_ih_l0": (32,), "lstm.bias_hh_l0": (32,)} | linear("fc", 3, 8)
    embedding, lstm, fc = operations(shapes)
    assert (embedding.reads, embedding.writes) == ((("embedding.weight", 0),), (("embedding.weight", 1),))
    assert set(lstm.reads) == {("lstm.weight_ih_l0", 1), ("lstm.weight_hh_l0", 1)}
    assert list(lstm.weights()) == [
        ("lstm.weight_ih_l0", (0,), "lstm.bias_ih_l0"),
        ("lstm.weight_hh_l0", (0,), "lstm.bias_hh_l0"),
    ]
    assert (lstm.inputs, fc.inputs) == ((0,), (1,))


def test_a_pre_norm_transformer_in_the_order_of_its_data():
    found = operations(transformer(), config={"num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6})
    part = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    blocks = [f"blocks.{i}.{name}" for i in range(2) for name in part]
    assert [o.name for o in found] == ["patch_embed.proj", "pos_embed", *blocks, "norm", "head"]
    named = by_name(found)
    names = {o.name: [found[i].name for i in o.inputs] for o in found}
    assert names["blocks.0.attn.qkv"] == ["blocks.0.norm1"]
    assert names["blocks.0.norm2"] == ["pos_embed", "blocks.0.attn.proj"]  # the sum of a residual connection
    assert names["blocks.1.norm1"] == ["pos_embed", "blocks.0.attn.proj", "blocks.0.mlp.fc2"]
    assert names["head"] == ["norm"]
    assert named["blocks.0.attn.qkv"].facts["heads"] == Fact(2, "config")
    assert named["blocks.0.mlp.fc1"].facts["activation"] == Fact("gelu", "config")
    assert named["norm"].facts["epsilon"] == Fact(1e-6, "config")
    assert named["blocks.0.norm1"].source == "assumed"


def test_without_a_norm_at_the_end_norms_follow_sums():
    found = operations(transformer(final_norm=False))
    names = [o.name for o in found if o.name.startswith("blocks.0")]
    assert names == [f"blocks.0.{n}" for n in ("attn.qkv", "attn.proj", "norm1", "mlp.fc1", "mlp.fc2", "norm2")]
    named = {o.name: [found[i].name for i in o.inputs] for o in found}
    assert named["blocks.0.norm1"] == ["pos_embed", "blocks.0.attn.proj"]
    assert named["blocks.0.mlp.fc1"] == ["blocks.0.norm1"]
    assert named["blocks.1.attn.qkv"] == ["blocks.0.norm2"]


def test_shortcuts_run_beside_the_others():
    shapes = {"conv1.weight": (4, 3, 3, 3)} | batch_norm("bn1", 4)
    shapes |= {"layer1.0.conv1.weight": (6, 4, 3, 3), "layer1.0.conv2.weight": (6, 6, 3, 3)}
    shapes |= batch_norm("layer1.0.bn1", 6) | batch_norm("layer1.0.bn2", 6)
    shapes |= (
        {"layer1.0.downsample.0.weight": (6, 4, 1, 1)} | batch_norm("layer1.0.downsample.1", 6) | linear("fc", 2, 6)
    )
    found = operations(shapes)
    named = {o.name: [found[i].name for i in o.inputs] for o in found}
    assert named["layer1.0.conv1"] == named["layer1.0.downsample.0"] == ["bn1"]
    assert named["layer1.0.conv2"] == ["layer1.0.bn1"]
    assert sorted(named["fc"]) == ["layer1.0.bn2", "layer1.0.downsample.1"]
    assert len(find_folds(infer_wiring(checkpoint(shapes)))) == 4


def test_low_rank_pairs_are_added_to_their_base():
    shapes = linear("a", 9, 5) | linear("b", 3, 9)
    shapes |= {"a.lora_A.weight": (2, 5), "a.lora_B.weight": (9, 2)}
    found = operations(shapes)
    assert [o.name for o in found] == ["a", "a.lora_A", "a.lora_B", "b"]
    assert [o.inputs for o in found] == [(), (), (1,), (0, 2)]


def test_what_is_not_understood_is_an_operation_too():
    found = operations(linear("blocks.0", 12, 5) | linear("blocks.1", 4, 77) | linear("head", 3, 4))
    assert {o.name for o in found} == {"blocks.0", "blocks.1", "head"}
    assert all(all(i < n for i in o.inputs) for n, o in enumerate(found))


@pytest.mark.parametrize("given, value, source", [("tanh", "tanh", "metadata"), (None, None, "assumed")])
def test_activations_have_a_source(given, value, source):
    found = operations(linear("0", 12, 5) | linear("2", 9, 12) | linear("4", 3, 9), activation=given)
    assert [o.facts.get("activation") for o in found] == [Fact(value, source)] * 2 + [None]


FLAX = {"params/stem/block/Conv_0/kernel": (3, 3, 2, 6), "params/head/Dense_0/kernel": (6, 4)}
FLAX |= {f"params/stem/block/BatchNorm_0/{name}": (6,) for name in ("scale", "bias")}
FLAX |= {f"batch_stats/stem/block/BatchNorm_0/{name}": (6,) for name in ("mean", "var")}
KERAS = {"stem/block/conv/kernel": (3, 3, 2, 6), "stem/block/bn/gamma": (6,), "stem/block/bn/beta": (6,)}
KERAS |= {"stem/block/bn/moving_mean": (6,), "stem/block/bn/moving_variance": (6,), "head/out/kernel": (6, 4)}


@pytest.mark.parametrize("shapes", [FLAX, KERAS], ids=["flax", "keras"])
def test_norms_of_nested_modules_fold(shapes):
    network = checkpoint(shapes)
    wiring = infer_wiring(network)
    (fold,) = find_folds(wiring)
    assert (fold.weight, fold.axis) == (next(iter(shapes)), 3)
    found = canonicalize(network, wiring).tensors
    mean, variance, gain = (network.tensors[fold.fields[name]] for name in ("mean", "variance", "gain"))
    expected = network.tensors[fold.weight] * gain / np.sqrt(variance + fold.epsilon)
    np.testing.assert_allclose(found[fold.weight], expected, rtol=1e-5)
    shift = network.tensors[fold.fields["shift"]] - mean * gain / np.sqrt(variance + fold.epsilon)
    np.testing.assert_allclose(found[fold.fields["shift"]], shift, rtol=1e-4, atol=1e-5)


def test_epsilon_of_keras_comes_from_its_configuration():
    layer = {"class_name": "BatchNormalization", "config": {"name": "bn", "epsilon": 0.01}}
    (fold,) = find_folds(infer_wiring(checkpoint(KERAS, keras_config={"config": {"layers": [layer]}})))
    assert fold.epsilon == 0.01
    (fold,) = find_folds(infer_wiring(checkpoint(KERAS, keras_config={})))
    assert fold.epsilon == 1e-3  # what Keras takes where it is not said


# twins: one network in two formats, whose tensor names tell nothing


def twins(folder, network):
    """An ONNX file and a TFLite file of two convolutions with ReLU, a mean and a dense layer; returns both opened."""
    a, bias_a, b, bias_b, dense, bias = network
    nodes = [
        helper.make_node("Conv", ["x", "t0", "t1"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "t2", "t3"], ["d"]),
        helper.make_node("Relu", ["d"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "t4"], ["p"]),
        helper.make_node("Add", ["p", "t5"], ["y"]),
    ]
    tensors = {"t0": a, "t1": bias_a, "t2": b, "t3": bias_b, "t4": dense.T.copy(), "t5": bias}
    model = onnx_model(tensors, nodes, (("x", [1, 3, 8, 8]),), (("y", [1, 5]),))
    model.opset_import[0].version = 13
    onnx.save(model, folder / "m.onnx")
    codes = [tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.MEAN, tflite.BuiltinOperator.FULLY_CONNECTED]
    relu = {"FusedActivationFunction": tflite.ActivationFunctionType.RELU}
    same = {"Padding": tflite.Padding.SAME} | relu
    weights = [
        ("x", (1, 8, 8, 3), None),
        ("t0", np.ascontiguousarray(a.transpose(0, 2, 3, 1)), None),
        ("t1", bias_a, None),
        ("r", (1, 4, 4, 6), None),
        ("t2", np.ascontiguousarray(b.transpose(0, 2, 3, 1)), None),
        ("t3", bias_b, None),
        ("s", (1, 4, 4, 7), None),
        ("axes", np.array([1, 2], np.int32), None),
        ("m", (1, 7), None),
        ("t4", dense, None),
        ("t5", bias, None),
        ("y", (1, 5), None),
    ]
    operators = [
        (0, [0, 1, 2], [3], ("Conv2DOptions", same | {"StrideW": 2, "StrideH": 2})),
        (0, [3, 4, 5], [6], ("Conv2DOptions", same | {"StrideW": 1, "StrideH": 1})),
        (1, [6, 7], [8], ("ReducerOptions", {"KeepDims": False})),
        (2, [8, 9, 10], [11], ("FullyConnectedOptions", {})),
    ]
    (folder / "m.tflite").write_bytes(TfliteWriter().model(weights, operators, codes))
    return open_checkpoint(folder / "m.onnx"), open_checkpoint(folder / "m.tflite")


def draw(seed=0):
    draws = np.random.default_rng(seed)
    shapes = ((6, 3, 3, 3), (6,), (7, 6, 1, 1), (7,), (5, 7), (5,))
    return [draws.standard_normal(shape).astype(np.float32) for shape in shapes]


def as_onnx(name, tensor, is_lite):
    if is_lite and tensor.ndim == 4:
        return tensor.transpose(0, 3, 1, 2)
    return tensor.T if is_lite and name == "t4" else tensor


def canonical_weights(opened, is_lite, names=("t0", "t1", "t2", "t3", "t4", "t5")):
    found = canonicalize(opened, infer_wiring(opened)).tensors
    return {name: as_onnx(name, np.asarray(found[name]), is_lite) for name in names}


def test_a_graph_says_what_is_between_layers(tmp_path):
    for opened in twins(tmp_path, draw()):
        first, second, dense = infer_wiring(opened).operations
        assert [o.type for o in (first, second, dense)] == ["conv", "conv", "linear"]
        assert first.facts["activation"] == second.facts["activation"] == Fact("relu", "graph")
        assert first.facts["stride"] == Fact((2, 2), "graph")
        assert first.facts["kernel"] == Fact((3, 3), "graph")
        assert first.facts["padding"].value in ((1, 1, 1, 1), "same")
        assert dense.tensors == {"weight": "t4", "bias": "t5"}  # also where it is added by a node of its own
        assert (first.source, second.inputs, dense.inputs) == ("graph", (0,), (1,))


def test_twins_of_two_formats_have_the_same_canonical_weights(tmp_path):
    ours, theirs = (canonical_weights(c, lite) for lite, c in enumerate(twins(tmp_path, draw())))
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-5, atol=1e-6, err_msg=name)
    length = np.square(ours["t0"]).sum((1, 2, 3)) + np.square(ours["t1"])
    np.testing.assert_allclose(length, 1, rtol=1e-5)


def test_scales_that_a_graph_allows_are_removed(tmp_path):
    opened, _ = twins(tmp_path, draw())
    wiring = infer_wiring(opened)
    assert [g.scale for g in wiring.groups.values() if g.permutable] == ["positive", "positive"]
    tensors = {name: np.asarray(t, np.float64) for name, t in opened.tensors.items()}
    moved = rescaled(tensors, wiring, seed=1)
    assert np.abs(moved["t0"] - tensors["t0"]).max() > 0.1
    other = replace(opened, tensors={n: t.astype(np.float32) for n, t in moved.items()})
    model = onnx.load(tmp_path / "m.onnx")
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    before = ReferenceEvaluator(model).run(None, {"x": x})[0]
    for tensor in model.graph.initializer:
        if tensor.name in moved:
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved[tensor.name].astype(np.float32), tensor.name))
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"x": x})[0], before, rtol=1e-4, atol=1e-5)
    ours, theirs = canonical_weights(opened, False), canonical_weights(other, False)
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("gate", ["Sigmoid", "Softmax"])
def test_what_is_not_homogeneous_allows_no_scale(gate, tmp_path):
    tensors = {"t0": draw()[4].T.copy(), "t1": draw(1)[4]}
    nodes = [
        helper.make_node("MatMul", ["x", "t1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node(gate, ["r"], ["g"]),
        helper.make_node("MatMul", ["g", "t0"], ["y"]),
    ]
    onnx.save(onnx_model(tensors, nodes, (("x", [1, 5]),), (("y", [1, 5]),)), tmp_path / "m.onnx")
    wiring = infer_wiring(open_checkpoint(tmp_path / "m.onnx"))
    assert any(g.permutable for g in wiring.groups.values())
    assert {g.scale for g in wiring.groups.values()} == {"none"}


def test_a_batch_norm_of_a_graph_folds_with_its_own_epsilon(tmp_path):
    a, bias, *_ = draw()
    tensors = {"t0": a, "t1": bias, "t2": draw(1)[1], "t3": draw(2)[1], "t4": draw(3)[1], "t5": np.abs(draw(4)[1])}
    nodes = [
        helper.make_node("Conv", ["x", "t0", "t1"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "t2", "t3", "t4", "t5"], ["y"], epsilon=0.5),
    ]
    onnx.save(onnx_model(tensors, nodes, (("x", [1, 3, 8, 8]),), (("y", [1, 6, 6, 6]),)), tmp_path / "m.onnx")
    opened = open_checkpoint(tmp_path / "m.onnx")
    (fold,) = find_folds(infer_wiring(opened))
    assert (fold.weight, fold.axis, fold.bias, fold.epsilon) == ("t0", 0, "t1", 0.5)
    found = canonicalize(opened, infer_wiring(opened)).tensors
    gain = tensors["t2"] / np.sqrt(tensors["t5"] + 0.5)
    np.testing.assert_allclose(found["t0"], a * gain[:, None, None, None], rtol=1e-5)
    np.testing.assert_allclose(found["t3"], tensors["t3"] + (bias - tensors["t4"]) * gain, rtol=1e-4, atol=1e-5)


# odd input


ODD = [
    {"conv.weight": (8, 3, 3, 3), "norm.weight": shape, "norm.bias": shape, "fc.weight": (4, 8)}
    for shape in ((5, 5), (8, 5, 5), (8, 1, 1), (), (0,), (1,), (0, 3))
]
ODD += [{"lstm.weight_ih_l0": (32, 6)}, {"lstm.weight_hh_l0": (30, 8), "lstm.weight_ih_l0": (32, 6)}]
ODD += [{"a.recurrent_kernel": ()}, {"a.in_proj_weight": (3,), "a.out_proj.bias": (2,)}, {"w": ()}, {}]


@pytest.mark.parametrize("shapes", ODD, ids=str)
def test_odd_shapes_have_a_wiring_and_a_canonical_form(shapes):
    network = checkpoint(shapes)
    wiring = infer_wiring(network)
    assert wiring.shapes.keys() == shapes.keys()
    found = canonicalize(network, wiring).tensors
    assert all(np.asarray(t).shape == shapes[name] for name, t in found.items())
    assert permuted(network.tensors, wiring, 0).keys() == shapes.keys()


def test_what_goes_wrong_in_inference_names_the_file(monkeypatch):
    def broken(*_):
        raise IndexError("tuple index\nout of range")

    monkeypatch.setattr(module, "Adapters", broken)
    with pytest.raises(CheckpointError, match=r"^f: its wiring .*IndexError: tuple index out of range\); .*"):
        infer_wiring(checkpoint({"a.weight": (2, 3)}))
