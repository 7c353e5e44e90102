"""Claims about ONNX files are put to the test: the permuted network is run by ONNX's own reference evaluator."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

rng = np.random.default_rng(0)


def weights(**shapes):
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def norms(width, prefix):
    return {
        **{f"{prefix}_{key}": rng.normal(size=width).astype(np.float32) for key in ("gain", "bias", "mean")},
        f"{prefix}_var": rng.uniform(0.5, 2, width).astype(np.float32),
    }


def norm_inputs(prefix):
    return [f"{prefix}_{key}" for key in ("gain", "bias", "mean", "var")]


def mlp():
    tensors = weights(w1=(8, 6), b1=(8,), w2=(8, 5), b2=(5,), w3=(3, 5), b3=(3,))
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"], transB=1),
        helper.make_node("Relu", ["h1"], ["a1"]),
        helper.make_node("MatMul", ["a1", "w2"], ["m2"]),
        helper.make_node("Add", ["m2", "b2"], ["h2"]),
        helper.make_node("Tanh", ["h2"], ["a2"]),
        helper.make_node("Gemm", ["a2", "w3", "b3"], ["y"], transB=1),
    ]
    return tensors, nodes, (6,), {"w1": 8, "w2": 5}


def residual_cnn():
    shapes = {"k1": (8, 3, 3, 3), "k2": (8, 8, 3, 3), "kd": (8, 1, 3, 3), "kg": (8, 4, 1, 1), "k3": (4, 8, 1, 1)}
    tensors = weights(**shapes, w=(5, 12), b=(5,)) | norms(8, "n1")
    conv = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "k1"], ["c1"], **conv),
        helper.make_node("BatchNormalization", ["c1", *norm_inputs("n1")], ["n1"]),
        helper.make_node("Relu", ["n1"], ["a1"]),
        helper.make_node("Conv", ["a1", "k2"], ["c2"], **conv),
        helper.make_node("Add", ["c2", "a1"], ["r"]),
        helper.make_node("Conv", ["r", "kd"], ["d"], group=8, **conv),
        helper.make_node("Conv", ["d", "kg"], ["g"], group=2, kernel_shape=[1, 1]),
        helper.make_node("Conv", ["d", "k3"], ["c3"], kernel_shape=[1, 1]),
        helper.make_node("Concat", ["g", "c3"], ["cat"], axis=1),
        helper.make_node("GlobalAveragePool", ["cat"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    return tensors, nodes, (3, 6, 6), {"k3": 4}


def flattened_cnn():
    tensors = weights(k1=(4, 1, 3, 3), w1=(10, 64), b1=(10,), w2=(3, 10), b2=(3,))
    nodes = [
        helper.make_node("Conv", ["x", "k1"], ["c1"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["a1"]),
        helper.make_node("Flatten", ["a1"], ["f"]),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Gemm", ["s", "w2", "b2"], ["y"], transB=1),
    ]
    return tensors, nodes, (1, 6, 6), {"k1": 4, "w1": 10}


def unknown():
    tensors, nodes, shape, _ = mlp()
    nodes = [*nodes[:2], helper.make_node("CumSum", ["a1", "axis"], ["u"]), *nodes[2:]]
    nodes[3].input[0] = "u"
    return tensors | {"axis": np.array(1)}, nodes, shape, {"w2": 5}


NETWORKS = {f.__name__: f for f in (mlp, residual_cnn, flattened_cnn, unknown)}


def save(path, nodes, shape, tensors):
    """Writes an ONNX file; returns what runs it."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return ReferenceEvaluator(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_permuted_network_computes_the_same(name, tmp_path):
    tensors, nodes, shape, expected = NETWORKS[name]()
    path = tmp_path / "model.onnx"
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    before = save(path, nodes, shape, tensors).run(None, {"x": x})[0]
    checkpoint = open_checkpoint(path)
    claim = infer_wiring(checkpoint)
    for tensor, size in expected.items():
        groups = [claim.groups[s.group] for axis in claim.axes[tensor] for s in axis or () if s.group]
        assert any(g.permutable and g.size == size for g in groups), tensor
    moved = permuted({n: np.asarray(t) for n, t in checkpoint.tensors.items()}, claim, seed=1)
    assert any(not np.array_equal(moved[n], tensors[n]) for n in moved)
    moved = {n: v.astype(np.float32) for n, v in moved.items()}
    after = save(path, nodes, shape, tensors | moved).run(None, {"x": x})[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_what_an_unknown_node_reads_stays_fixed(tmp_path):
    tensors, nodes, shape, _ = unknown()
    path = tmp_path / "model.onnx"
    save(path, nodes, shape, tensors)
    claim = infer_wiring(open_checkpoint(path))
    assert claim.axes["w1"][0] is None and claim.axes["b1"][0] is None
    assert any("CumSum" in warning for warning in claim.warnings)
