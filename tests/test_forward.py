"""Graphs of ONNX files are run as the reference evaluator runs them, and as the sweep runs small networks."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from experiments.proofs import forward as proof
from experiments.proofs.samples_onnx import onnx_model
from wsrl.checkpoint import CheckpointError
from wsrl.encoder.dense_layers import dense_layers
from wsrl.encoder.dense_sweep import Inputs, sweep_network
from wsrl.forward.cost import Cost
from wsrl.forward.from_checkpoint import forward_graph
from wsrl.forward.kind import graph_kind
from wsrl.forward.operators import OPERATORS
from wsrl.forward.run import run
from wsrl.program.network import read_network
from wsrl.program.read import read_program
from wsrl.readers import open_checkpoint

SIDE = 8


def weights(*shape, seed=0):
    fan_in = max(1, int(np.prod(shape[1:])))
    return (np.random.default_rng((seed, *shape)).normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], **attributes)


def saved(folder, tensors, nodes, shape=("batch", 1, SIDE, SIDE), opset=18, outputs=(("y", ["batch", 5]),)):
    model = onnx_model(tensors, nodes, (("x", list(shape)),), outputs)
    model.opset_import[0].version = opset
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def answered(path, shape):
    checkpoint = open_checkpoint(path)
    return run(forward_graph(checkpoint), checkpoint, images(*shape))


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def agree(path, shape):
    """Checks the output against the reference's, and returns it."""
    found = answered(path, shape)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"x": images(*shape)})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return found


def convolutional(folder):
    tensors = {"a": weights(6, 1, 3, 3), "b": weights(6), "c": weights(9, 6, 3, 3), "d": weights(9)}
    tensors |= {"e": weights(5, 9), "f": weights(5, seed=1)}
    nodes = [
        node("Conv", "x a b", "1", pads=[1] * 4, strides=[2, 2]),
        node("Relu", "1", "2"),
        node("Conv", "2 c d", "3", pads=[1] * 4),
        node("Relu", "3", "4"),
        node("GlobalAveragePool", "4", "5"),
        node("Flatten", "5", "6"),
        node("Gemm", "6 e f", "y", transB=1),
    ]
    return saved(folder, tensors, nodes)


def residual(folder):
    tensors = {"a": weights(6, 1, 3, 3), "c": weights(6, 6, 3, 3), "d": weights(6, 6, 3, 3, seed=1)}
    tensors |= {f"n{i}{k}": weights(6, seed=i + 9 * j) for i in range(3) for j, k in enumerate("gsm")}
    tensors |= {f"n{i}v": np.abs(weights(6, seed=i)) + np.float32(0.5) for i in range(3)}
    tensors |= {"e": weights(5, 6), "f": weights(5, seed=1)}
    norm = lambda i: f"n{i}g n{i}s n{i}m n{i}v"  # noqa: E731
    nodes = [
        node("Conv", "x a", "1", pads=[1] * 4),
        node("BatchNormalization", f"1 {norm(0)}", "2"),
        node("Relu", "2", "3"),
        node("Conv", "3 c", "4", pads=[1] * 4),
        node("BatchNormalization", f"4 {norm(1)}", "5"),
        node("Relu", "5", "6"),
        node("Conv", "6 d", "7", pads=[1] * 4),
        node("BatchNormalization", f"7 {norm(2)}", "8"),
        node("Add", "8 3", "9"),
        node("Relu", "9", "10"),
        node("GlobalAveragePool", "10", "11"),
        node("Flatten", "11", "12"),
        node("Gemm", "12 e f", "y", transB=1),
    ]
    return saved(folder, tensors, nodes)


def flattened(folder):
    tensors = {"a": weights(4, 1, 3, 3), "b": weights(4), "e": weights(5, 64), "f": weights(5, seed=1)}
    nodes = [
        node("Conv", "x a b", "1", pads=[1] * 4),
        node("Tanh", "1", "2"),
        node("MaxPool", "2", "3", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "3", "4"),
        node("Gemm", "4 e f", "y", transB=1),
    ]
    return saved(folder, tensors, nodes)


def perceptron(folder):
    tensors = {"a": weights(7, 64), "b": weights(7), "e": weights(5, 7), "f": weights(5, seed=1)}
    nodes = [
        node("Flatten", "x", "1"),
        node("Gemm", "1 a b", "2", transB=1),
        node("Relu", "2", "3"),
        node("Gemm", "3 e f", "y", transB=1),
    ]
    return saved(folder, tensors, nodes)


NETWORKS = [convolutional, residual, flattened, perceptron]


@pytest.mark.parametrize("network", NETWORKS)
def test_small_networks_answer_as_in_the_reference_and_in_the_sweep(tmp_path, network):
    path = network(tmp_path)
    logits = agree(path, (3, 1, SIDE, SIDE))
    checkpoint = open_checkpoint(path)
    layers = dense_layers(read_network(checkpoint, read_program(checkpoint)))
    swept, _ = sweep_network(layers, Inputs(np.moveaxis(images(3, 1, SIDE, SIDE), 1, 3)), None, gradients=False)
    np.testing.assert_allclose(swept.T, logits, atol=1e-5)


def test_images_can_be_run_one_by_one(tmp_path):
    checkpoint = open_checkpoint(residual(tmp_path))
    graph = forward_graph(checkpoint)
    x = weights(3, 1, SIDE, SIDE)
    each = [run(graph, checkpoint, x[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(np.concatenate(each), run(graph, checkpoint, x), atol=1e-6)


@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_of_old_versions_is_over_all_axes_behind(tmp_path, opset):
    nodes = [node("Conv", "x a", "1"), node("Softmax", "1", "y", axis=1)]
    path = saved(tmp_path, {"a": weights(3, 1, 3, 3)}, nodes, opset=opset, outputs=(("y", ["batch", 3, 6, 6]),))
    found = answered(path, (2, 1, SIDE, SIDE))  # the reference runs the newest version alone
    np.testing.assert_allclose(found.sum((1, 2, 3) if opset < 13 else 1), 1, rtol=1e-5)


def test_resizing_of_old_versions(tmp_path):
    tensors = {"a": weights(3, 1, 3, 3), "s": np.float32([1, 1, 2, 2])}
    nodes = [node("Conv", "x a", "1"), node("Resize", "1 s", "y", mode="nearest")]
    path = saved(tmp_path, tensors, nodes, opset=10, outputs=(("y", ["batch", 3, 12, 12]),))
    found = answered(path, (2, 1, SIDE, SIDE))
    np.testing.assert_array_equal(found[..., ::2, ::2], found[..., 1::2, 1::2])


def test_shapes_are_computed(tmp_path):
    shape = helper.make_node("ConstantOfShape", ["two"], ["ones"], value=helper.make_tensor("", 7, [1], [1]))
    nodes = [
        node("Conv", "x a", "1", strides=[2, 2]),
        node("Shape", "1", "2"),
        node("Slice", "2 zero one", "3"),
        shape,
        node("Sub", "zeros ones", "4"),
        node("Gather", "4 zero", "5"),
        node("Concat", "3 5", "6", axis=0),
        node("Reshape", "1 6", "7"),
        node("MatMul", "7 e", "y"),
    ]
    tensors = {"a": weights(2, 1, 2, 2), "two": np.array([2]), "zeros": np.array([0, 0])}
    tensors |= {"zero": np.array([0]), "one": np.array([1]), "e": weights(32, 5)}
    agree(saved(tmp_path, tensors, nodes), (3, 1, SIDE, SIDE))


def attention(folder):
    tensors = {"q": weights(6, 6), "k": weights(6, 6, seed=1), "v": weights(6, 6, seed=2), "e": weights(6, 5)}
    tensors |= {"p": weights(6, 1, 4, 4), "g": weights(6, seed=3), "s": weights(6, seed=4), "axes": np.array([1])}
    tensors["tokens"] = np.array([0, 6, 4])
    nodes = [
        node("Conv", "x p", "1", strides=[4, 4]),
        node("Reshape", "1 tokens", "2"),
        node("Transpose", "2", "3", perm=[0, 2, 1]),
        node("LayerNormalization", "3 g s", "4"),
        node("MatMul", "4 q", "5"),
        node("MatMul", "4 k", "6"),
        node("MatMul", "4 v", "7"),
        node("Transpose", "6", "8", perm=[0, 2, 1]),
        node("MatMul", "5 8", "9"),
        node("Softmax", "9", "10"),
        node("MatMul", "10 7", "11"),
        node("Add", "3 11", "12"),
        node("ReduceMean", "12 axes", "13", keepdims=0),
        node("MatMul", "13 e", "y"),
    ]
    return saved(folder, tensors, nodes)


def test_attention(tmp_path):
    path = attention(tmp_path)
    agree(path, (2, 1, SIDE, SIDE))
    assert graph_kind(forward_graph(open_checkpoint(path))) == "operators: norm attention map pooled skip"


def test_only_what_the_output_needs_is_run(tmp_path):
    nodes = [node("Foo", "x", "z"), node("Conv", "x a", "y")]
    checkpoint = open_checkpoint(saved(tmp_path, {"a": weights(3, 1, 3, 3)}, nodes))
    assert run(forward_graph(checkpoint), checkpoint, weights(2, 1, SIDE, SIDE)).shape == (2, 3, 6, 6)


def test_unknown_operators_are_named(tmp_path):
    nodes = [node("Conv", "x a", "1"), node("Foo", "1", "2"), node("Bar", "2", "y", domain="com.example")]
    checkpoint = open_checkpoint(saved(tmp_path, {"a": weights(3, 1, 3, 3)}, nodes))
    with pytest.raises(CheckpointError, match=r"operator Foo, com\.example\.Bar is not known, so the network cannot"):
        run(forward_graph(checkpoint), checkpoint, weights(2, 1, SIDE, SIDE))


def test_what_does_not_fit_is_refused(tmp_path):
    nodes = [node("Conv", "x a", "y")]
    checkpoint = open_checkpoint(saved(tmp_path, {"a": weights(3, 2, 3, 3)}, nodes))
    with pytest.raises(CheckpointError, match=r"operator Conv \(y\) cannot be run: 1 channels for a kernel of 2"):
        run(forward_graph(checkpoint), checkpoint, weights(2, 1, SIDE, SIDE))


@pytest.mark.parametrize("limits", [{"most_bytes": 1000}, {"most_work": 1000}])
def test_limits(tmp_path, limits):
    checkpoint = open_checkpoint(convolutional(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be run: "):
        run(forward_graph(checkpoint), checkpoint, weights(2, 1, SIDE, SIDE), Cost(**limits))


def test_work_and_memory_are_counted(tmp_path):
    checkpoint = open_checkpoint(convolutional(tmp_path))
    cost = Cost()
    run(forward_graph(checkpoint), checkpoint, weights(2, 1, SIDE, SIDE), cost)
    products = 2 * (16 * 9 * 6 + 16 * 9 * 6 * 9 + 9 * 5)
    assert products < cost.work < 1.2 * products
    assert 4 * 2 * 16 * (6 + 9) <= cost.peak < 100_000


def test_values_are_dropped_when_last_read(tmp_path):
    nodes = [node("Conv", f"{i or 'x'} a", str(i + 1), pads=[1] * 4) for i in range(30)]
    nodes.append(node("Relu", "30", "y"))
    checkpoint = open_checkpoint(saved(tmp_path, {"a": weights(1, 1, 3, 3)}, nodes))
    cost = Cost()
    run(forward_graph(checkpoint), checkpoint, weights(2, 1, SIDE, SIDE), cost)
    assert cost.peak <= 5 * 4 * 2 * (SIDE + 2) ** 2


def test_several_inputs_or_outputs_are_no_image_classifier(tmp_path):
    nodes = [node("Conv", "x a", "y"), node("Relu", "y", "z")]
    ends = (("y", ["batch", 3, 6, 6]), ("z", ["batch", 3, 6, 6]))
    checkpoint = open_checkpoint(saved(tmp_path, {"a": weights(3, 1, 3, 3)}, nodes, outputs=ends))
    with pytest.raises(CheckpointError, match="it returns 2 values"):
        forward_graph(checkpoint)
    model = onnx_model({"a": weights(3, 1, 3, 3)}, [node("Conv", "x a", "1"), node("Add", "1 w", "y")])
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 1, 1]))
    (tmp_path / "two.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="it reads 2 values"):
        forward_graph(open_checkpoint(tmp_path / "two.onnx"))


def test_files_without_a_graph_have_none(tmp_path):
    checkpoint = open_checkpoint(convolutional(tmp_path))
    bare = dataclasses.replace(checkpoint, metadata={"format": "safetensors"})
    assert forward_graph(bare) is None


def test_the_proof_compares_a_folder(tmp_path, capsys, monkeypatch):
    residual(tmp_path)
    assert proof.main([str(tmp_path), "--images"]) == 0
    assert "1 networks compared, 0 above 1e-04" in capsys.readouterr().out
    monkeypatch.setitem(OPERATORS, "Relu", lambda call: call[0])
    assert proof.main([str(tmp_path)]) == 1
    saved(tmp_path, {"a": weights(3, 1, 3, 3)}, [node("Conv", "x a", "1"), node("Foo", "1", "y")])
    assert proof.main([str(tmp_path)]) == 0
    assert "operator Foo is not known" in capsys.readouterr().out
