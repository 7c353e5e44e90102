import json

import numpy as np
import pytest

from experiments.proofs.protobuf_files import message
from experiments.proofs.samples import write
from experiments.proofs.samples_keras import KERAS_CONFIG, arrays
from experiments.proofs.samples_tensorflow import SAMPLES, bundle, constant, graph_message
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def same(checkpoint, expected):
    assert checkpoint.tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(checkpoint.tensors[name]), array.astype(np.float32))


def test_a_checkpoint_of_an_old_program(tmp_path):
    path = SAMPLES["tensorflow"](tmp_path)
    matrix = np.arange(35, dtype=np.float32).reshape(7, 5)
    expected = {"w": matrix, "b": np.ones(5), "h": np.ones((3, 2))}
    for given in (path, path.with_name("model.ckpt-7.data-00000-of-00001"), tmp_path):
        checkpoint = open_checkpoint(given)
        same(checkpoint, expected)
        assert checkpoint.metadata["left_out"] == ("b/Adam", "global_step")
        np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"])[3:6], matrix[3:6])


def test_variables_of_a_saved_model_have_the_names_of_objects(tmp_path):
    path = SAMPLES["tensorflow-saved_model"](tmp_path)
    for given in (path, path / "saved_model.pb"):
        checkpoint = open_checkpoint(given)
        same(checkpoint, arrays())
        assert list(checkpoint.tensors) == list(arrays())
        assert checkpoint.metadata["tied"] == {f"_all_variables/{i}": name for i, name in enumerate(arrays())}


def test_a_saved_model_without_variables_is_named(tmp_path):
    path = write(tmp_path / "saved_model.pb", message((1, 1), (2, message((2, graph_message())))))
    with pytest.raises(CheckpointError, match="SavedModel without variables; copy its folder"):
        open_checkpoint(path)
    with pytest.raises(CheckpointError, match="SavedModel without variables"):
        open_checkpoint(tmp_path)


def test_weights_that_are_constants_of_a_saved_model(tmp_path):
    array = np.arange(40, dtype=np.float32)
    graph = graph_message(constant("w/ReadVariableOp", array))
    write(tmp_path / "saved_model.pb", message((1, 1), (2, message((2, graph)))))
    same(open_checkpoint(tmp_path), {"w": array})


def test_the_newest_checkpoint_of_a_folder(tmp_path):
    for step in (1, 2):
        bundle(tmp_path / f"model-{step}", {"w": np.full(3, step, np.float32)})
    write(tmp_path / "checkpoint", b'model_checkpoint_path: "/elsewhere/model-1"\n')
    same(open_checkpoint(tmp_path), {"w": np.ones(3)})
    (tmp_path / "checkpoint").unlink()
    assert open_checkpoint(tmp_path).tensors["w"].shape == (3,)


def test_a_wrong_checksum_is_told_when_the_tensor_is_read(tmp_path):
    path = SAMPLES["tensorflow"](tmp_path)
    data = path.with_name("model.ckpt-7.data-00000-of-00001")
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    with pytest.raises(CheckpointError, match="the checksum of tensor 'b' is wrong"):
        np.asarray(open_checkpoint(path).tensors["b"])
    data.unlink()
    with pytest.raises(CheckpointError, match=r"lacks its file 'model\.ckpt-7\.data-00000-of-00001'"):
        open_checkpoint(path)


def test_two_variables_of_one_name_keep_their_keys(tmp_path):
    objects = [(1, message((2, message((2, "dense/kernel"), (3, f"{layer}/kernel{VALUE}"))))) for layer in ("a", "b")]
    tensors = {f"{layer}/kernel{VALUE}": np.full(2, i, np.float32) for i, layer in enumerate("ab")}
    path = bundle(tmp_path / "model", tensors, {"_CHECKPOINTABLE_OBJECT_GRAPH": message(*objects)})
    assert list(open_checkpoint(path).tensors) == ["a/kernel", "b/kernel"]


def test_a_frozen_graph(tmp_path):
    expected = {f"net/{name}": array for name, array in arrays().items()}
    expected |= {"net/ones": np.ones(3), "net/half": np.array([1, 2.5])}
    same(open_checkpoint(SAMPLES["tensorflow_graph"](tmp_path)), expected)


def test_a_number_that_stands_for_many(tmp_path):
    large = np.broadcast_to(np.float32(1), (1 << 13, 1 << 13))
    tensor = message((1, 1), (2, message(*((2, message((1, n))) for n in large.shape))), (5, b"\0\0\x80?"))
    node = message((1, "w"), (2, "Const"), (5, message((1, "value"), (2, message((8, tensor))))))
    with pytest.raises(CheckpointError, match="repeats a number too often"):
        open_checkpoint(write(tmp_path / "a.pb", graph_message(node)))


def test_zeros_may_be_left_out(tmp_path):
    nodes = [constant("w", np.zeros((2, 3), np.float32), ()), constant("b", np.ones(2, np.float32))]
    same(open_checkpoint(write(tmp_path / "a.pb", graph_message(*nodes))), {"w": np.zeros((2, 3)), "b": np.ones(2)})


def test_a_model_of_tensorflow_js(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["tensorflow_js"](tmp_path))
    expected = arrays()
    expected["head/kernel"] = (expected["head/kernel"] * 16 + 100).astype(np.uint8) * np.float32(0.5) - 3
    expected["dense/bias"] = expected["dense/bias"].astype(np.float16)
    same(checkpoint, expected)
    assert checkpoint.metadata["keras_config"] == KERAS_CONFIG
    assert checkpoint.metadata["left_out"] == ("words",)


def test_a_manifest_of_tensorflow_js(tmp_path):
    same(
        open_checkpoint(SAMPLES["tensorflow_js-manifest"](tmp_path)),
        {"dense/kernel": np.arange(6.0).reshape(3, 2)},
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"paths": ["../net.bin"]}, "not in its folder"),
        ({"paths": ["other.bin"]}, "lacks its file 'other.bin'"),
        ({"weights": [{"name": "w", "shape": [7], "dtype": "float32"}]}, "ends beyond its files"),
        ({"weights": [{"name": "w", "shape": [5], "dtype": "float32"}]}, "4 bytes of its files belong to no tensor"),
        ({"weights": [{"name": "w", "shape": [5], "dtype": "odd"}]}, "unknown type 'odd'"),
    ],
)
def test_manifests_that_do_not_fit(tmp_path, change, reason):
    path = SAMPLES["tensorflow_js-manifest"](tmp_path)
    path.write_text(json.dumps([json.loads(path.read_text())[0] | change]))
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(path)
