import numpy as np
import pytest
import tflite

from experiments.proofs.samples_tflite import SAMPLES, TfliteWriter, sparse_levels, sparse_matrix
from wsrl.checkpoint import CheckpointError
from wsrl.readers import budget, open_checkpoint
from wsrl.readers.tflite_operators import OPERATORS, operator_name


def test_tensors_and_graph(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["tflite"](tmp_path))
    rng = np.random.default_rng(0)
    kernel = rng.integers(-127, 128, (2, 3, 3, 3)) * np.array([0.5, 0.25])[:, None, None, None]
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["conv/kernel"]), kernel)
    np.testing.assert_array_equal(checkpoint.tensors["conv/kernel"].rows(1, 2), kernel[1:])
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["conv/bias"]), [0.5, -1])
    assert checkpoint.tensors["head/kernel"].dtype == "float16"
    assert checkpoint.metadata["left_out"] == ("shape",)
    graph = checkpoint.metadata["graph"]
    assert [node["op"] for node in graph["nodes"]] == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    conv = {"padding": "SAME", "stride_w": 1, "stride_h": 1, "activation": "RELU", "dilation_w": 1, "dilation_h": 1}
    assert graph["nodes"][0]["attributes"] == conv
    assert graph["nodes"][1]["attributes"] == {"new_shape": [-1, 32]}
    assert graph["nodes"][2]["inputs"] == ["f", "head/kernel", ""]
    assert graph["inputs"] == [{"name": "x", "shape": [1, 4, 4, 3]}]
    assert graph["outputs"] == [{"name": "y", "shape": [1, 2]}]
    assert graph["constants"] == {"shape": [-1, 32]}


def test_names_of_operators_are_those_of_the_schema():
    known = {name: number for name, number in vars(tflite.BuiltinOperator).items() if name.isupper()}
    for name, number in known.items():
        assert operator_name(number) == (name if number < len(OPERATORS) else f"BUILTIN_{number}")


def saved(folder, weights, operators=(), codes=()):
    (folder / "a.tflite").write_bytes(TfliteWriter().model(weights, operators, codes))
    return folder / "a.tflite"


def test_names_are_made_unique(tmp_path):
    one = np.ones(1, np.float32)
    checkpoint = open_checkpoint(saved(tmp_path, [("w", one, None), ("w", one, None), ("", one, None)]))
    assert list(checkpoint.tensors) == ["w", "w:1", ":2"]


@pytest.mark.parametrize(
    ("weights", "operators"),
    [
        ([("q", np.ones((2, 3), np.int8), ([1, 2], [0, 0], 1))], []),
        ([("q", np.ones((2, 3), np.int8), ([1, 2], [0, 0], 7))], []),
        ([("q", np.ones((2, 3), np.int8), ([1, 2], [0, 0, 0], 0))], []),
        ([("w", np.ones(3, np.float32), None)], [(0, [5], [0], None)]),
        ([("w", np.ones(3, np.float32), None)], [(0, [-7], [0], None)]),
        ([("w", np.ones(3, np.float32), None)], [(4, [0], [0], None)]),
        ([], []),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, weights, operators):
    with pytest.raises(CheckpointError, match=r"a\.tflite: .*; "):
        open_checkpoint(saved(tmp_path, weights, operators, [0]))


@pytest.mark.parametrize("shape", [(2**30, 2**30), (3,), (-1,), ()])
def test_shapes_that_do_not_fit_are_refused(tmp_path, shape):
    array = np.ones((5, 7), np.float32)
    content = saved(tmp_path, [("w", array, None)]).read_bytes()
    old = np.array([2, 5, 7], np.int32).tobytes()
    new = np.array([len(shape), *shape, 0, 0][:3], np.int64).astype(np.int32).tobytes()
    assert content.count(old) == 1
    (tmp_path / "a.tflite").write_bytes(content.replace(old, new))
    with pytest.raises(CheckpointError, match="tensor 'w'"):
        open_checkpoint(tmp_path / "a.tflite")


def test_shared_tables_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "memory_limit", lambda size: 100_000 - budget.DESCRIPTION)
    writer = TfliteWriter()
    one = writer.table("Tensor", Shape=np.array([1], np.int32))
    graph = writer.table("SubGraph", Tensors=[one] * 2000)
    root = writer.table("Model", Version=3, Subgraphs=[graph], Buffers=[writer.table("Buffer")])
    writer.builder.Finish(root, b"TFL3")
    (tmp_path / "a.tflite").write_bytes(bytes(writer.builder.Output()))
    with pytest.raises(CheckpointError, match="more nodes"):
        open_checkpoint(tmp_path / "a.tflite")


def test_sparse_tensors_are_dense(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["tflite-sparse"](tmp_path))
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), sparse_matrix(np.float32))
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["q"]), sparse_matrix(np.float32) / 2)
    np.testing.assert_array_equal(checkpoint.tensors["w"].rows(1, 4), sparse_matrix(np.float32)[1:])
    graph = checkpoint.metadata["graph"]
    assert [node["inputs"] for node in graph["nodes"]] == [["x", "w", ""], ["x", "q", ""]]


LEVELS = [
    ([0, 1, 2], {}, [1, 1, 1]),
    ([2, 0, 1], {}, [0, 1, 1]),
    ([0, 1, 2, 3], {1: 2}, [0, 1, 1, 0]),
    ([1, 0, 2, 4, 3], {2: 3, 0: 2}, [1, 0, 1, 0, 0]),
]


@pytest.mark.parametrize(("order", "blocks", "formats"), LEVELS)
def test_levels_of_sparse_tensors(tmp_path, order, blocks, formats):
    rng = np.random.default_rng(0)
    dense = (rng.normal(size=(4, 6, 3)) * (rng.random((4, 6, 3)) < 0.2)).astype(np.float32)
    axes = sorted(blocks)
    order = [axis if axis < 3 else 3 + axes.index(list(blocks)[axis - 3]) for axis in order]
    stored, write = sparse_levels(dense, order, {axis: blocks[axis] for axis in axes}, formats)
    path = saved(tmp_path, [("w", stored, None, (dense.shape, write))])
    np.testing.assert_array_equal(np.asarray(open_checkpoint(path).tensors["w"]), dense)


@pytest.mark.parametrize("shape", [(4, 5), (2, 6), (4, 6, 1), (5, 6)])
def test_levels_that_do_not_fit_are_refused(tmp_path, shape):
    stored, write = sparse_levels(sparse_matrix(np.float32), [0, 1], {}, [0, 1])
    with pytest.raises(CheckpointError):
        open_checkpoint(saved(tmp_path, [("w", stored, None, (shape, write))])).tensors["w"].rows(0, 9)


def test_changes_of_the_layout_of_a_constant_are_folded(tmp_path):
    stored, twice = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 2), np.float32)
    weights = [
        *(("x", (1, 3), None), ("w", stored, None), ("order", np.array([1, 0], np.int32), None)),
        *(("t", (4, 3), None), ("shape", np.array([2, 6], np.int32), None), ("r", (2, 6), None)),
        *(("v", twice, None), ("u", (2, 3), None), ("y", (1, 2), None)),
    ]
    b = tflite.BuiltinOperator
    operators = [
        *((0, [1, 2], [3], None), (1, [3, 4], [5], None), (2, [0, 5, -1], [8], ("FullyConnectedOptions", {}))),
        *((0, [6, 2], [7], None), (2, [0, 7, -1], [8], None), (2, [0, 6, -1], [8], None)),
    ]
    content = TfliteWriter().model(weights, operators, [b.TRANSPOSE, b.RESHAPE, b.FULLY_CONNECTED])
    (tmp_path / "a.tflite").write_bytes(content)
    checkpoint = open_checkpoint(tmp_path / "a.tflite")
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), stored.T.reshape(2, 6))
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["v"]), twice)
    nodes = checkpoint.metadata["graph"]["nodes"]
    assert [(node["op"], node["inputs"][:2]) for node in nodes[:2]] == [
        ("FULLY_CONNECTED", ["x", "w"]),
        ("TRANSPOSE", ["v", "order"]),
    ]


@pytest.mark.parametrize(("zero", "operator", "signed"), [(0, 9, True), (0, 6, False), (7, 9, False)])
def test_unsigned_weights_beside_real_numbers_are_signed(tmp_path, zero, operator, signed):
    """As TensorFlow once wrote networks whose weights alone are quantized; 9 is a dense layer, 6 dequantizes."""
    stored = np.array([[0, 100, 200], [255, 128, 1]], np.uint8)
    weights = [("x", (1, 3), None), ("w", stored, ([0.5], [zero], 0)), ("y", (1, 2), None)]
    checkpoint = open_checkpoint(saved(tmp_path, weights, [(0, [0, 1], [2], None)], [operator]))
    right = stored.view(np.int8) if signed else stored.astype(int) - zero
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), 0.5 * right)
