"""Claims about single operators of ONNX, put to the test as in test_graph_flow."""

# pyright: reportArgumentType=false

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_graph_flow import norm_inputs, norms, rng, save, weights

from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted, rescaled

node = helper.make_node


def layer_norm(x, prefix, out, gain):
    """A layer norm written out, as exporters before opset 17 do."""
    names = {key: f"{prefix}_{key}" for key in ("m", "d", "q", "v", "e", "s", "n", "g")}
    return [
        node("ReduceMean", [x], [names["m"]], axes=[-1]),
        node("Sub", [x, names["m"]], [names["d"]]),
        node("Pow", [names["d"], "two"], [names["q"]]),
        node("ReduceMean", [names["q"]], [names["v"]], axes=[-1]),
        node("Add", [names["v"], "epsilon"], [names["e"]]),
        node("Sqrt", [names["e"]], [names["s"]]),
        node("Div", [names["d"], names["s"]], [names["n"]]),
        node("Mul", [names["n"], gain], [names["g"]]),
        node("Add", [names["g"], f"{gain}_shift"], [out]),
    ]


def written_norm():
    tensors = weights(w1=(6, 8), gain=(8,), gain_shift=(8,), w2=(8, 3))
    tensors |= {"two": np.float32(2), "epsilon": np.float32(1e-3)}
    nodes = [node("MatMul", ["x", "w1"], ["h"]), *layer_norm("h", "n", "l", "gain"), node("MatMul", ["l", "w2"], ["y"])]
    return tensors, nodes, (6,), {"w1": 8}


def softmax_by_hand():
    """Units are divided by their sum: what is reduced keeps an axis of length 1."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Exp", ["h"], ["e"]),
        node("ReduceSum", ["e", "last"], ["s"]),
        node("Div", ["e", "s"], ["p"]),
        node("MatMul", ["p", "w2"], ["y"]),
    ]
    return weights(w1=(6, 8), w2=(8, 3)) | {"last": np.array([-1])}, nodes, (6,), {"w1": 8}


def dense_on_places():
    """A dense layer as a product of matrices, whose shapes are computed."""
    tensors = weights(w1=(6, 8), w2=(8, 5), w3=(5, 3))
    tensors |= {"lead": np.array([0, 1]), "eight": np.array([8]), "five": np.array([5]), "all": np.array([-1])}
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Shape", ["h"], ["s"]),
        node("Gather", ["s", "lead"], ["places"]),
        node("Concat", ["all", "eight"], ["flat"], axis=0),
        node("Reshape", ["h", "flat"], ["rows"]),
        node("MatMul", ["rows", "w2"], ["d"]),
        node("Concat", ["places", "five"], ["back"], axis=0),
        node("Reshape", ["d", "back"], ["e"]),
        node("MatMul", ["e", "w3"], ["y"]),
    ]
    return tensors, nodes, (4, 6), {"w1": 8, "w2": 5}


def both_directions():
    """An LSTM in both directions whose first states are zeros that the graph makes, and one on what it returns."""
    tensors = weights(w1=(2, 20, 6), r1=(2, 20, 5), b1=(2, 40), w2=(2, 12, 10), r2=(2, 12, 3), w=(6, 4))
    tensors |= {"zero": np.array([0, 0, -1]), "size": np.array([2, 2, 5])}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("ConstantOfShape", ["size"], ["state"]),
        node("LSTM", ["t", "w1", "r1", "b1", "", "state", "state"], ["h"], direction="bidirectional", hidden_size=5),
        node("Transpose", ["h"], ["ht"], perm=[0, 2, 1, 3]),
        node("Reshape", ["ht", "zero"], ["hr"]),
        node("LSTM", ["hr", "w2", "r2"], ["k"], direction="bidirectional", hidden_size=3),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1, 3]),
        node("Reshape", ["kt", "zero"], ["kr"]),
        node("MatMul", ["kr", "w"], ["y"]),
    ]
    return tensors, nodes, (7, 6), {"r1": 5, "r2": 3}


def parts():
    """Positions are taken out of maps, and channels: those lose their order."""
    tensors = weights(k1=(8, 3, 3), k2=(6, 3, 3), w=(8, 4), v=(2, 4))
    tensors |= {key: np.array([value]) for key, value in {"start": 1, "stop": 3, "positions": 2, "channels": 1}.items()}
    tensors |= {"first": np.array(0)}
    nodes = [
        node("Conv", ["x", "k1"], ["c1"]),
        node("Slice", ["c1", "start", "stop", "positions"], ["s1"]),
        node("Gather", ["s1", "first"], ["g1"], axis=2),
        node("MatMul", ["g1", "w"], ["y1"]),
        node("Conv", ["x", "k2"], ["c2"]),
        node("Slice", ["c2", "start", "stop", "channels"], ["s2"]),
        node("GlobalAveragePool", ["s2"], ["p2"]),
        node("Gather", ["p2", "first"], ["g2"], axis=2),
        node("MatMul", ["g2", "v"], ["y2"]),
        node("Add", ["y1", "y2"], ["y"]),
    ]
    return tensors, nodes, (3, 9), {"k1": 8}


def branches():
    """Both branches read what comes before them."""
    ends = [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, None) for i in range(2)]
    bodies = [
        helper.make_graph(
            [node("MatMul", ["h", f"v{i}"], [f"m{i}"]), node("Tanh", [f"m{i}"], [f"o{i}"])],
            f"body{i}",
            [],
            [ends[i]],
            [numpy_helper.from_array(rng.normal(size=(8, 5)).astype(np.float32), f"v{i}")],
        )
        for i in range(2)
    ]
    choice = node("If", ["flag"], ["b"], then_branch=bodies[0], else_branch=bodies[1])
    nodes = [node("MatMul", ["x", "w1"], ["h"]), choice, node("MatMul", ["b", "w2"], ["y"])]
    return weights(w1=(6, 8), w2=(5, 3)) | {"flag": np.array(True)}, nodes, (6,), {"w1": 8, "w2": 5}


def units_as_positions():
    """Frequencies that one layer writes lie along the height of the maps that the next reads."""
    nodes = [
        node("Conv", ["x", "k1"], ["f"]),
        node("Unsqueeze", ["f", "one"], ["u"]),
        node("Conv", ["u", "k2"], ["c"], kernel_shape=[3, 3]),
        node("Conv", ["c", "k3"], ["y"], kernel_shape=[1, 1]),
    ]
    return weights(k1=(9, 3, 1), k2=(4, 1, 3, 3), k3=(2, 4, 1, 1)) | {"one": np.array([1])}, nodes, (3, 9), {"k2": 4}


NETWORKS = {
    f.__name__: f
    for f in (written_norm, softmax_by_hand, dense_on_places, both_directions, parts, branches, units_as_positions)
}


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
    assert any(not np.array_equal(moved[n], tensors[n]) for n in moved if n in tensors)
    moved = {n: v.astype(np.float32) for n, v in moved.items()}
    for body in (a.g for n in nodes for a in n.attribute if a.HasField("g")):
        for initializer in body.initializer:
            initializer.CopyFrom(numpy_helper.from_array(moved.pop(initializer.name), initializer.name))
    after = save(path, nodes, shape, tensors | moved).run(None, {"x": x})[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_a_layer_norm_that_is_written_out_is_one_operation(tmp_path):
    tensors, nodes, shape, _ = written_norm()
    save(tmp_path / "model.onnx", nodes, shape, tensors)
    linear, norm, _ = infer_wiring(open_checkpoint(tmp_path / "model.onnx")).operations
    assert (linear.type, norm.type, norm.tensors) == ("linear", "norm", {"gain": "gain", "shift": "gain_shift"})
    assert norm.facts["epsilon"].value == pytest.approx(1e-3)


def test_gain_and_shift_of_a_batch_norm_scale_with_its_units(tmp_path):
    path = tmp_path / "model.onnx"
    tensors = weights(k1=(8, 3, 3, 3), b1=(8,), k2=(4, 8, 3, 3)) | norms(8, "n")
    nodes = [
        node("Conv", ["x", "k1", "b1"], ["c"]),
        node("BatchNormalization", ["c", *norm_inputs("n")], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("Conv", ["r", "k2"], ["y"]),
    ]
    x = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    before = save(path, nodes, (3, 6, 6), tensors).run(None, {"x": x})[0]
    checkpoint = open_checkpoint(path)
    claim = infer_wiring(checkpoint)
    assert [g.scale for g in claim.groups.values() if g.permutable] == ["positive"]
    moved = rescaled({n: np.asarray(t) for n, t in checkpoint.tensors.items()}, claim, 1)
    assert not np.array_equal(moved["n_gain"], tensors["n_gain"]) and np.array_equal(moved["n_mean"], tensors["n_mean"])
    after = save(path, nodes, (3, 6, 6), tensors | {n: v.astype(np.float32) for n, v in moved.items()})
    np.testing.assert_allclose(after.run(None, {"x": x})[0], before, rtol=1e-4, atol=1e-4)


BROKEN = {
    "in a circle": [node("Relu", ["h"], ["a"]), node("Reshape", ["a", "to"], ["b"]), node("Transpose", ["b"], ["a"])],
    "without outputs": [node("Relu", ["h"], []), node("MatMul", ["h", "w2"], [])],
    "without inputs": [node("Reshape", [], ["h2"]), node("Tile", [], ["h3"]), node("Expand", [], ["h4"])],
}


@pytest.mark.parametrize("name", BROKEN)
def test_nodes_that_break_the_rules_of_graphs_do_no_harm(name, tmp_path):
    nodes = [node("MatMul", ["x", "w1"], ["h"]), *BROKEN[name], node("MatMul", ["x2", "w3"], ["y"])]
    save(tmp_path / "model.onnx", nodes, (6,), weights(w1=(6, 8), w2=(8, 3), w3=(4, 3)))
    wiring = infer_wiring(open_checkpoint(tmp_path / "model.onnx"))
    assert "w1" in wiring.operations[0].tensors.values()
