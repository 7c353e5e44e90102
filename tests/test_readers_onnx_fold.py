"""The graph that the reader returns, run as a model on real numbers, must do what the file's own graph does."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def quantized(array, axis=None, dtype=np.int8):
    """Codes, scales and zero points of an array, along an axis if there is one."""
    others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
    low, high = (np.asarray(f(array, axis=others, keepdims=axis is not None)) for f in (np.min, np.max))
    limits = np.iinfo(dtype)
    scale = ((high - low) / (limits.max - limits.min)).astype(np.float32)
    zero = np.round(limits.min - low / scale)
    codes = np.clip(np.round(array / scale + zero), limits.min, limits.max).astype(dtype)
    return (
        codes,
        scale.reshape(-1) if axis is not None else scale,
        zero.astype(dtype).reshape(scale.size if axis is not None else ()),
    )


def model(nodes, tensors, inputs, outputs=("y",), domains=()):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    protos = [t if isinstance(t, TensorProto) else numpy_helper.from_array(t, name) for name, t in tensors.items()]
    sets = [helper.make_opsetid("", 21), *(helper.make_opsetid(domain, 1) for domain in domains)]
    graph = helper.make_graph(nodes, "graph", values, results, protos)
    return helper.make_model(graph, opset_imports=sets)


def opened(folder, proto):
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return open_checkpoint(folder / "model.onnx")


def plain_nodes(graph):
    result = []
    for node in graph["nodes"]:
        attributes = {}
        for key, value in node["attributes"].items():
            if isinstance(value, dict):
                outputs = [helper.make_tensor_value_info(v["name"], TensorProto.FLOAT, None) for v in value["outputs"]]
                value = helper.make_graph(plain_nodes(value), "body", [], outputs)
            attributes[key] = value
        result.append(
            helper.make_node(node["op"], node["inputs"], node["outputs"], domain=node["domain"], **attributes)
        )
    return result


def rebuilt(checkpoint, **more):
    """A model of the graph and the tensors that the reader returns, and of more constants that are no weights."""
    graph = checkpoint.metadata["graph"]
    tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
    tensors |= {name: np.array(value) for name, value in graph["constants"].items() if name not in tensors}
    tensors |= more
    inputs = {value["name"]: value["shape"] for value in graph["inputs"]}
    return model(plain_nodes(graph), tensors, inputs, [value["name"] for value in graph["outputs"]])


def run(proto, **inputs):
    return ReferenceEvaluator(proto).run(None, inputs)[0]


def check(folder, proto, rtol=0.03, **inputs):
    """Returns the checkpoint once both models agree."""
    checkpoint = opened(folder, proto)
    expected, found = run(proto, **inputs), run(rebuilt(checkpoint), **inputs)
    np.testing.assert_allclose(found, expected, atol=rtol * np.abs(expected).max())
    return checkpoint


node = helper.make_node


def integer_product(op, weight, codes_axis, **attributes):
    """Nodes as ONNX Runtime's dynamic quantization writes them, and their tensors."""
    codes, scale, zero = quantized(weight, codes_axis)
    shape = [-1 if i == 1 else 1 for i in range(weight.ndim)] if op == "ConvInteger" else [-1]
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        node("Mul", ["xs", "ws"], ["s"]),
        node(op, ["xq", "w", "xz", "wz"], ["i"], **attributes),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]
    return nodes, {"w": codes, "ws": scale.reshape(shape) if scale.size > 1 else scale, "wz": zero, "b": normal(1)}


@pytest.mark.parametrize("axis", [None, 1])
def test_matmul_integer(tmp_path, axis):
    weight = normal(8, 5)
    nodes, tensors = integer_product("MatMulInteger", weight, axis)
    checkpoint = check(tmp_path, model(nodes, tensors, {"x": [3, 8]}), x=normal(3, 8))
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["w"]), weight, atol=0.02)
    assert set(checkpoint.tensors) == {"w", "b"} and "warnings" not in checkpoint.metadata
    assert [n["op"] for n in checkpoint.metadata["graph"]["nodes"]] == ["MatMul", "Add"]
    np.testing.assert_array_equal(checkpoint.tensors["w"].rows(2, 4), np.asarray(checkpoint.tensors["w"])[2:4])


def test_conv_integer(tmp_path):
    weight = normal(4, 3, 3, 3)
    nodes, tensors = integer_product("ConvInteger", weight, None)
    checkpoint = check(tmp_path, model(nodes, tensors, {"x": [1, 3, 6, 6]}), x=normal(1, 3, 6, 6))
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["w"]), weight, atol=0.03)


def test_integer_product_without_a_scale_is_told(tmp_path):
    nodes, tensors = integer_product("MatMulInteger", normal(8, 5), None)
    tensors["b"] = np.ones(1, np.int32)
    cut = [*nodes[:1], nodes[2], node("Add", ["i", "b"], ["y"])]
    checkpoint = opened(tmp_path, model(cut, tensors, {"x": [3, 8]}))
    assert checkpoint.tensors["w"].size == 40
    assert checkpoint.metadata["warnings"] == ("tensor 'w' (40 parameters), read by MatMulInteger, has no scale",)


def test_qlinear_conv_and_matmul(tmp_path):
    weight, head, x = normal(4, 3, 3, 3), normal(4, 2), normal(1, 3, 6, 6)
    w, ws, wz = quantized(weight, 0)
    wz[:] = 0
    ws = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
    w = np.round(weight / ws[:, None, None, None]).astype(np.int8)
    bias = normal(4)
    h, hs, hz = quantized(head)
    xs = np.float32(0.05)
    tensors = {"xs": xs, "z": np.int8(0), "w": w, "ws": ws, "wz": wz, "ys": np.float32(0.2), "h": h, "hs": hs, "hz": hz}
    tensors |= {"b": np.round(bias / (xs * ws)).astype(np.int32), "os": np.float32(0.1), "axes": np.array([2, 3])}
    nodes = [
        node("QuantizeLinear", ["x", "xs", "z"], ["q"]),
        node("QLinearConv", ["q", "xs", "z", "w", "ws", "wz", "ys", "z", "b"], ["c"]),
        node("DequantizeLinear", ["c", "ys", "z"], ["d"]),
        node("ReduceMean", ["d", "axes"], ["m"], keepdims=0),
        node("QuantizeLinear", ["m", "ys", "z"], ["mq"]),
        node("QLinearMatMul", ["mq", "ys", "z", "h", "hs", "hz", "os", "z"], ["o"]),
        node("DequantizeLinear", ["o", "os", "z"], ["y"]),
    ]
    checkpoint = check(tmp_path, model(nodes, tensors, {"x": [1, 3, 6, 6]}), 0.1, x=x)
    assert set(checkpoint.tensors) == {"w", "b", "h"}
    for name, array in {"w": weight, "b": bias, "h": head}.items():
        np.testing.assert_allclose(np.asarray(checkpoint.tensors[name]), array, atol=0.03)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_tables_are_dequantized_behind_gather(tmp_path, dtype):
    table = normal(10, 4)
    codes, scale, zero = quantized(table, None, dtype)
    nodes = [
        node("Gather", ["t", "ids"], ["g"]),
        node("DequantizeLinear", ["g", "s", "z"], ["e"]),
        node("Transpose", ["g"], ["gt"], perm=[1, 0]),
        node("DequantizeLinear", ["gt", "s", "z"], ["et"]),
        node("MatMul", ["e", "et"], ["y"]),
    ]
    tensors = {"t": codes, "s": scale, "z": zero, "ids": np.array([1, 7, 3])}
    checkpoint = check(tmp_path, model(nodes, tensors, {}), 1e-6)
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["t"]), table, atol=0.03)
    assert [n["op"] for n in checkpoint.metadata["graph"]["nodes"]] == ["Gather", "Transpose", "MatMul"]


def test_rows_of_a_table_with_scales_that_are_looked_up_too(tmp_path):
    table = normal(10, 4)
    scale = (np.abs(table).max(1, keepdims=True) / 127).astype(np.float32)
    nodes = [
        node("Gather", ["t", "ids"], ["g"]),
        node("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
        node("Gather", ["s", "ids"], ["gs"]),
        node("Mul", ["f", "gs"], ["y"]),
    ]
    tensors = {"t": np.round(table / scale).astype(np.int8), "s": scale, "ids": np.array([1, 7, 3])}
    checkpoint = opened(tmp_path, model(nodes, tensors, {}))
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["t"]), table, atol=0.03)
    assert set(checkpoint.tensors) == {"t"}


@pytest.mark.parametrize("block", [2, 3, 4])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("number", [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8])
@pytest.mark.parametrize("raw", [True, False])
def test_blocks(tmp_path, block, axis, number, raw):
    shape = (6, 8) if axis else (8, 6)
    low, high = {TensorProto.INT4: (-8, 8), TensorProto.UINT4: (0, 16), TensorProto.INT8: (-128, 128)}[number]
    codes = RNG.integers(low, high, shape)
    counts = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
    scale, zero = np.abs(normal(*counts)) + 0.1, RNG.integers(max(low, -8), 8, counts)
    stored = [helper.make_tensor(n, number, a.shape, a.reshape(-1)) for n, a in (("q", codes), ("z", zero))]
    if raw:
        arrays = [numpy_helper.to_array(tensor) for tensor in stored]
        stored = [numpy_helper.from_array(array, tensor.name) for array, tensor in zip(arrays, stored, strict=True)]
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=axis, block_size=block),
        node("Add", ["x", "w"], ["y"]),
    ]
    proto = model(nodes, {"q": stored[0], "s": scale, "z": stored[1]}, {"x": shape})
    tensor = opened(tmp_path, proto).tensors["q"]
    wide = [np.repeat(a, block, axis)[: shape[0], : shape[1]] for a in (scale, zero)]
    expected = (codes - wide[1]) * wide[0]
    np.testing.assert_allclose(np.asarray(tensor), expected, rtol=1e-5)
    np.testing.assert_allclose(tensor.rows(1, 4), expected[1:4], rtol=1e-5)


def test_float8_with_a_scale(tmp_path):
    weight = normal(5, 8)
    stored = helper.make_tensor("q", TensorProto.FLOAT8E4M3FN, weight.shape, (weight / 4).reshape(-1))
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"]), node("Gemm", ["x", "w"], ["y"], transB=1)]
    checkpoint = check(tmp_path, model(nodes, {"q": stored, "s": np.float32(4)}, {"x": [3, 8]}), x=normal(3, 8))
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["q"]), weight, rtol=0.07, atol=0.02)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_matmul_bits(tmp_path, bits, with_zeros):
    inputs, outputs, block = 40, 6, 16
    blocks, per_byte = 3, 8 // bits
    codes = RNG.integers(0, 1 << bits, (outputs, blocks * block)).astype(np.uint8)
    zeros = RNG.integers(0, 1 << bits, (outputs, -(-blocks // per_byte) * per_byte)).astype(np.uint8)

    def packed(array):
        split = array.reshape(len(array), -1, per_byte)
        return sum(split[..., i] << bits * i for i in range(per_byte)).astype(np.uint8)

    scale = np.abs(normal(outputs, blocks)) + 0.1
    tensors = {"q": packed(codes).reshape(outputs, blocks, -1), "s": scale.reshape(-1), "b": normal(outputs)}
    given = ["x", "q", "s", "z", "", "b"] if with_zeros else ["x", "q", "s", "", "", "b"]
    tensors |= {"z": packed(zeros).reshape(-1)} if with_zeros else {}
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block}
    nodes = [node("MatMulNBits", given, ["y"], domain="com.microsoft", **attributes)]
    checkpoint = opened(tmp_path, model(nodes, tensors, {"x": [2, inputs]}, domains=["com.microsoft"]))
    zero = zeros[:, :blocks].astype(float) if with_zeros else np.full((outputs, blocks), 1 << bits - 1)
    expected = ((codes - np.repeat(zero, block, 1)) * np.repeat(scale, block, 1))[:, :inputs]
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["q"]), expected.T, rtol=1e-5)
    assert [n["op"] for n in checkpoint.metadata["graph"]["nodes"]] == ["MatMul", "Add"]
    x = normal(2, inputs)
    np.testing.assert_allclose(run(rebuilt(checkpoint), x=x), x @ expected.T + tensors["b"], rtol=1e-3)


def test_dynamic_lstm(tmp_path):
    weights = {"W": normal(2, 3, 16), "R": normal(2, 4, 16)}  # directions, inputs, gates
    tensors = {}
    for name, array in weights.items():
        codes, scale, zero = zip(*(quantized(a) for a in array), strict=True)
        tensors |= {name: np.stack(codes), f"{name}s": np.stack(scale), f"{name}z": np.stack(zero)}
    tensors["B"] = normal(2, 32)
    given = ["x", "W", "R", "B", "", "", "", "", "Ws", "Wz", "Rs", "Rz"]
    nodes = [
        node("DynamicQuantizeLSTM", given, ["y"], domain="com.microsoft", hidden_size=4, direction="bidirectional")
    ]
    checkpoint = opened(tmp_path, model(nodes, tensors, {"x": [5, 1, 3]}, domains=["com.microsoft"]))
    for name, array in weights.items():
        np.testing.assert_allclose(np.asarray(checkpoint.tensors[name]), array.transpose(0, 2, 1), atol=0.03)
    plain = [node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=4, direction="bidirectional")]
    reference = {name: array.transpose(0, 2, 1).copy() for name, array in weights.items()} | {"B": tensors["B"]}
    x = normal(5, 1, 3)
    expected = run(model(plain, reference, {"x": [5, 1, 3]}), x=x)
    np.testing.assert_allclose(run(rebuilt(checkpoint), x=x), expected, atol=0.05)


@pytest.mark.parametrize("op", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_products_of_onnxruntime(tmp_path, op):
    weight = normal(8, 5)
    codes, scale, zero = quantized(weight, 1)
    tensors = {"w": codes, "s": scale, "z": zero, "b": normal(5), "xs": np.float32(1), "xz": np.int8(0)}
    given = ["x", "w", "s", "z", "b"] if op.startswith("Dynamic") else ["x", "w", "xs", "s", "xz", "z", "b"]
    nodes = [node(op, given, ["y"], domain="com.microsoft")]
    checkpoint = opened(tmp_path, model(nodes, tensors, {"x": [2, 8]}, domains=["com.microsoft"]))
    x = normal(2, 8)
    np.testing.assert_allclose(run(rebuilt(checkpoint), x=x), x @ weight + tensors["b"], atol=0.15)


def test_codes_that_are_cast_and_scaled(tmp_path):
    weight = normal(8, 5)
    codes, scale, zero = quantized(weight, 1)
    nodes = [
        node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        node("Sub", ["f", "z"], ["d"]),
        node("Mul", ["s", "d"], ["m"]),
        node("Reshape", ["m", "shape"], ["r"]),
        node("MatMul", ["x", "r"], ["y"]),
    ]
    tensors = {"w": codes, "s": scale, "z": zero.astype(np.float32), "shape": np.array([4, -1])}
    checkpoint = check(tmp_path, model(nodes, tensors, {"x": [3, 4]}), 1e-5, x=normal(3, 4))
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["w"]), weight.reshape(4, 10), atol=0.03)
    np.testing.assert_allclose(checkpoint.tensors["w"].rows(1, 3), weight.reshape(4, 10)[1:3], atol=0.03)
    assert set(checkpoint.tensors) == {"w"}


def test_layout_of_constants_is_folded(tmp_path):
    nodes = [
        node("Cast", ["h"], ["c"], to=TensorProto.FLOAT),
        node("Transpose", ["c"], ["t"], perm=[1, 0]),
        node("Unsqueeze", ["t", "one"], ["u"]),
        node("Squeeze", ["u", "one"], ["w"]),
        node("Identity", ["w"], ["v"]),
        node("Gemm", ["x", "v"], ["y"], transB=1),
    ]
    tensors = {"h": normal(4, 6).astype(np.float16), "one": np.array([1])}
    checkpoint = check(tmp_path, model(nodes, tensors, {"x": [2, 4]}), 1e-5, x=normal(2, 4))
    assert checkpoint.tensors["h"].shape == (6, 4)
    assert [n["op"] for n in checkpoint.metadata["graph"]["nodes"]] == ["Gemm"]


def test_a_tensor_that_is_read_in_two_layouts_counts_once(tmp_path):
    nodes = [
        node("Gather", ["e", "ids"], ["g"]),
        node("Transpose", ["e"], ["t"], perm=[1, 0]),
        node("MatMul", ["g", "t"], ["y"]),
    ]
    checkpoint = check(tmp_path, model(nodes, {"e": normal(7, 4), "ids": np.array([1, 2])}, {}), 1e-5)
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {"e": (7, 4)}
    assert sorted(n["op"] for n in checkpoint.metadata["graph"]["nodes"]) == ["Gather", "MatMul", "Transpose"]


def test_branches(tmp_path):
    def branch(weight, dtype):
        out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
        codes, scale, zero = quantized(weight, None, dtype)
        held = [numpy_helper.from_array(a, n) for n, a in (("w", codes), ("s", scale), ("z", zero))]
        body = [node("DequantizeLinear", ["w", "s", "z"], ["f"]), node("MatMul", ["x", "f"], ["o"])]
        return helper.make_graph(body, "body", [], [out], held)

    one, other = normal(4, 3), normal(4, 3)
    nodes = [node("If", ["c"], ["y"], name="if", then_branch=branch(one, np.int8), else_branch=branch(other, np.uint8))]
    for condition in (True, False):
        proto = model(nodes, {"c": np.array(condition)}, {"x": [2, 4]})
        checkpoint, x = opened(tmp_path, proto), normal(2, 4)
        np.testing.assert_allclose(run(rebuilt(checkpoint, c=np.array(condition)), x=x), run(proto, x=x), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["w"]), other, atol=0.03)
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["if.then_branch/w"]), one, atol=0.03)


def test_sparse_tensors(tmp_path):
    dense = np.zeros((4, 5), np.float32)
    dense[[0, 2, 3], [1, 4, 0]] = [1, 2, 3]
    flat = np.flatnonzero(dense)
    for indices in (flat, np.stack(np.nonzero(dense), 1)):
        proto = model([node("MatMul", ["x", "w"], ["y"])], {}, {"x": [2, 4]})
        values = numpy_helper.from_array(dense.reshape(-1)[flat], "w")
        proto.graph.sparse_initializer.append(
            helper.make_sparse_tensor(values, numpy_helper.from_array(indices.astype(np.int64), "i"), dense.shape)
        )
        tensor = opened(tmp_path, proto).tensors["w"]
        np.testing.assert_array_equal(np.asarray(tensor), dense)
        np.testing.assert_array_equal(tensor.rows(1, 3), dense[1:3])


@pytest.mark.parametrize("place", [-1, 20])
def test_entries_of_sparse_tensors_lie_within(tmp_path, place):
    proto = model([], {}, {"x": [2, 4]}, ["x"])
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    sparse = onnx.SparseTensorProto(values=values, indices=numpy_helper.from_array(np.array([place]), "i"), dims=[4, 5])
    proto.graph.sparse_initializer.append(sparse)
    with pytest.raises(CheckpointError, match="no place"):
        opened(tmp_path, proto)


def test_codes_that_no_known_operator_reads_are_told(tmp_path):
    tensors = {"w": normal(30, 30), "q": np.ones((10, 10), np.int8)}
    nodes = [node("Odd", ["x", "q"], ["y"], domain="com.example")]
    checkpoint = opened(tmp_path, model(nodes, tensors, {"x": [2, 4]}, domains=["com.example"]))
    assert checkpoint.metadata["unread"] == {"q": 100}
    assert checkpoint.metadata["warnings"] == ("tensor 'q' is not read: 100 numbers of int8",)
    tensors["w"] = tensors["w"][:2, :2]
    with pytest.raises(CheckpointError, match=r"most of its numbers .* 'q' of int8"):
        opened(tmp_path, model(nodes, tensors, {"x": [2, 4]}, domains=["com.example"]))
