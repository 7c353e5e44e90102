from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from onnx import TensorProto, helper, numpy_helper

from experiments.proofs.samples_keras import arrays
from experiments.proofs.samples_onnx import SAMPLES, onnx_model
from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers import budget, open_checkpoint
from wsrl.readers import onnx as reader
from wsrl.readers.affine import affine, along
from wsrl.readers.protobuf import WireError, count_packed, unpack


def test_tensors_and_graph(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["onnx"](tmp_path))
    expected = {
        "w": arrays()["dense/kernel"],
        "b": arrays()["dense/bias"].astype(np.float16),
        "q": (np.arange(-3, 3).reshape(3, 2) - [1, -1]) * [0.5, 0.25],
        "slope": np.float32([0.1]),
    }
    assert checkpoint.tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(np.asarray(checkpoint.tensors[name]), array, rtol=1e-6)
    np.testing.assert_allclose(checkpoint.tensors["q"].rows(1, 2), expected["q"][1:2])
    graph = checkpoint.metadata["graph"]
    assert [node["op"] for node in graph["nodes"]] == ["Gemm", "PRelu", "Reshape", "MatMul"]
    assert graph["nodes"][0]["attributes"] == {"alpha": 0.5, "transB": 0}
    assert graph["nodes"][3]["inputs"] == ["f", "q"]
    assert graph["inputs"] == [{"name": "x", "shape": [None, 4]}]
    assert graph["outputs"] == [{"name": "y", "shape": [None, 2]}]
    assert graph["constants"] == {"shape": [-1, 3]} and checkpoint.metadata["opset"] == {"": 18}
    assert set(checkpoint.metadata["left_out"]) == {"shape", "scale", "zero"}


def saved(folder, tensors, nodes=()):
    (folder / "model.onnx").write_bytes(onnx_model(tensors, list(nodes)).SerializeToString())
    return folder / "model.onnx"


TYPES = [
    *(np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
    *(np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint32, np.uint64, np.bool_),
]


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("raw", [True, False])
def test_every_type_raw_and_as_numbers(tmp_path, dtype, raw):
    array = np.array([[0, 1, 2], [3, 5, 120]]).astype(dtype)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if raw:
        tensor = numpy_helper.from_array(array, "a")
        assert tensor.raw_data
    else:
        tensor = helper.make_tensor("a", number, array.shape, array)
        assert not tensor.raw_data
    checkpoint = reader.open_file(saved(tmp_path, {"a": tensor}))
    assert checkpoint.tensors["a"].dtype == np.dtype(dtype).name
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["a"]), array.astype(np.float32))
    np.testing.assert_array_equal(checkpoint.tensors["a"].rows(1, 2), array[1:].astype(np.float32))


def test_attributes_constants_and_inner_graphs(tmp_path):
    body = helper.make_graph([], "body", [], [], [numpy_helper.from_array(np.ones(2, np.float32), "inner")])
    nodes = [
        helper.make_node(
            "Conv", ["x", "w"], ["h"], name="conv", strides=[2, 2], auto_pad="SAME_UPPER", group=1, e=[""]
        ),
        helper.make_node("Constant", [], ["axes"], value_ints=[0, -1]),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=body),
        helper.make_node("Custom", ["h"], ["z"], domain="com.example", table=numpy_helper.from_array(np.ones(1), "t")),
    ]
    checkpoint = reader.open_file(saved(tmp_path, {"w": np.ones((1, 1, 3, 3), np.float32)}, nodes))
    conv, branch, custom = checkpoint.metadata["graph"]["nodes"]
    assert conv["attributes"] == {"strides": [2, 2], "auto_pad": "SAME_UPPER", "group": 1, "e": [""]}
    assert checkpoint.metadata["graph"]["constants"] == {"axes": [0, -1]}
    assert branch["attributes"] == {"then_branch": {"nodes": [], "inputs": [], "outputs": []}}
    assert "inner" in checkpoint.tensors
    assert custom["domain"] == "com.example" and custom["attributes"] == {"table": None}


def test_initializers_among_the_inputs(tmp_path):
    model = onnx_model({"w": np.ones(2, np.float32)}, [], inputs=[("x", [1]), ("w", [2])])
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert [value["name"] for value in reader.open_file(tmp_path / "a.onnx").metadata["graph"]["inputs"]] == ["x"]


def test_external_data(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["onnx-external"](tmp_path))
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), arrays()["dense/kernel"])


def external(folder, **entries):
    tensor = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return saved(folder, {"w": tensor})


LOCATIONS = [
    "/etc/passwd",
    "../secret",
    "a/../../secret",
    "C:\\x",
    "C:x",
    "..\\secret",
    "",
    ".",
    "link",
    "missing",
    "folder",
    "nul\0",
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_external_data_elsewhere_is_refused(tmp_path, location):
    (folder := tmp_path / "model").mkdir()
    (folder / "folder").mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="external data"):
        open_checkpoint(external(folder, location=location))


@pytest.mark.parametrize(
    "entries", [{"offset": 1}, {"offset": -1}, {"length": 8}, {"offset": 2**63}, {"offset": "x"}, {"length": -16}]
)
def test_external_data_beyond_its_file_is_refused(tmp_path, entries):
    (tmp_path / "w").write_bytes(bytes(16))
    assert open_checkpoint(external(tmp_path, location="w")).tensors["w"].size == 4
    with pytest.raises(CheckpointError, match="tensor 'w'"):
        open_checkpoint(external(tmp_path, location="w", **entries))


def test_external_data_in_the_cache_of_the_hub(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "2").write_bytes(bytes(16))
    external(blobs, location="w").rename(blobs / "1")
    (snapshot / "model.onnx").symlink_to(blobs / "1")
    (snapshot / "w").symlink_to(blobs / "2")
    assert open_checkpoint(snapshot / "model.onnx").tensors["w"].size == 4


@pytest.mark.parametrize("shape", [[2**60], [2**31, 2**31], [-1], [3], [1] * 40, [0, 5]])
def test_shapes_that_do_not_fit_are_refused(tmp_path, shape):
    raw = TensorProto(name="w", dims=shape, data_type=TensorProto.FLOAT, raw_data=bytes(8))
    for tensor in (raw, TensorProto(name="w", dims=shape, data_type=TensorProto.FLOAT16, int32_data=[1, 2])):
        with pytest.raises(CheckpointError, match="tensor 'w'"):
            open_checkpoint(saved(tmp_path, {"w": tensor}))


def test_odd_models_are_refused(tmp_path):
    one = numpy_helper.from_array(np.ones(1, np.float32), "w")
    twice = onnx_model({"w": one, "v": one}, [])
    nameless = onnx.ModelProto(ir_version=8)
    unknown = onnx_model({"w": TensorProto(name="w", dims=[1], data_type=99, raw_data=bytes(4))}, [])
    scales = {"q": np.ones((2, 3), np.int8), "s": np.ones(2, np.float32)}
    misfit = onnx_model(scales, [helper.make_node("DequantizeLinear", ["q", "s"], ["y"], axis=1)])
    for model in (twice, nameless, unknown, misfit):
        (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match=r"a\.onnx: .*; "):
            open_checkpoint(tmp_path / "a.onnx")


def test_many_empty_nodes_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "memory_limit", lambda size: 100_000 - budget.DESCRIPTION)
    model = onnx_model({"w": np.ones(1, np.float32)}, []).SerializeToString()
    graph = b"\x0a\x00" * 2000  # two bytes a node
    (tmp_path / "a.onnx").write_bytes(model + b"\x3a" + varint(len(graph)) + graph)
    with pytest.raises(CheckpointError, match="more nodes"):
        open_checkpoint(tmp_path / "a.onnx")


def varint(value):
    value %= 1 << 64
    result = b""
    while value >= 128:
        result, value = result + bytes([value & 127 | 128]), value >> 7
    return result + bytes([value])


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_packed_integers(values):
    packed = np.frombuffer(b"".join(map(varint, values)), np.uint8)
    assert count_packed(packed) == len(values)
    assert unpack(packed, np.dtype(np.int64)).tolist() == values


@pytest.mark.parametrize("packed", [b"\x80", b"\x01\xff", b"\xff" * 11 + b"\x01"])
def test_packed_integers_that_do_not_end(packed):
    with pytest.raises(WireError, match="does not end"):
        unpack(np.frombuffer(packed, np.uint8), np.dtype(np.int64))


@given(arrays_of.arrays(np.int8, arrays_of.array_shapes(min_dims=1, max_dims=3, max_side=4)), st.data())
def test_affine_scales_belong_to_their_axis(stored, data):
    axis = data.draw(st.integers(-stored.ndim, stored.ndim - 1))
    count = data.draw(st.sampled_from([1, stored.shape[axis]]))
    scale, zero = np.linspace(0.5, 1, count).astype(np.float32), np.arange(count)
    laid = (along(factors, axis, stored.ndim) for factors in (scale, zero))
    tensor = affine(LazyTensor.of(stored, "file", "q"), *laid, Path("file"))
    shape = [-1 if i == axis % stored.ndim else 1 for i in range(stored.ndim)] if count > 1 else [1] * stored.ndim
    expected = (stored - zero.reshape(shape)) * scale.reshape(shape)
    np.testing.assert_allclose(np.asarray(tensor), expected, rtol=1e-6)
    start, stop = sorted(data.draw(st.integers(0, len(stored))) for _ in range(2))
    np.testing.assert_allclose(tensor.rows(start, stop), expected[start:stop], rtol=1e-6)
