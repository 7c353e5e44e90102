import io
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from experiments.proofs.samples import write
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.readers.npz import holds_data

NUMBERS = arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.dtype(">f4")]),
    array_shapes(min_dims=0, max_dims=4, min_side=0),
    elements={"allow_nan": False, "min_value": -1e4, "max_value": 1e4},
)


@given(NUMBERS, st.booleans(), st.booleans())
def test_any_array(tmp_path_factory, array, fortran, compressed):
    array = np.asfortranarray(array) if fortran and array.ndim else array
    path = tmp_path_factory.mktemp("any") / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, w=array, matrix=np.ones((2, 3)))
    tensor = open_checkpoint(path).tensors["w"]
    assert tensor.shape == array.shape
    np.testing.assert_array_equal(np.asarray(tensor), array.astype(np.float32))


def test_two_bytes_without_a_type_are_bfloat16(tmp_path):
    array = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    np.savez(tmp_path / "a.npz", w=array)
    tensor = open_checkpoint(tmp_path / "a.npz").tensors["w"]
    assert tensor.dtype == "bfloat16"
    np.testing.assert_array_equal(np.asarray(tensor), [[1.5, -2.0]])


def test_objects_texts_and_records_are_left_out(tmp_path):
    objects = np.array([{"a": 1}, None])
    record = np.zeros(2, [("x", "f4"), ("y", "i4")])
    np.savez(tmp_path / "a.npz", w=np.ones((2, 2)), o=objects, t=np.array(["text"]), r=record, i=np.ones(2, int))
    checkpoint = open_checkpoint(tmp_path / "a.npz")
    assert list(checkpoint.tensors) == ["w"]
    assert sorted(checkpoint.metadata["left_out"]) == ["i", "o", "r", "t"]
    np.savez(tmp_path / "b.npz", o=objects)
    with pytest.raises(CheckpointError, match="holds no matrix, only 'o'"):
        open_checkpoint(tmp_path / "b.npz")


NO_NETWORKS = {
    "indices": ({"idx": np.arange(9)}, "holds no matrix, only 'idx', so it is no network"),
    "curves": ({"loss": np.ones(9), "step": np.int32(3)}, "holds no matrix"),
    "a sparse matrix": ({"data": np.ones(3), "indices": np.arange(3), "shape": np.array([2, 2])}, "holds no matrix"),
    "edges and scores": ({"edges": np.ones((4, 2), int), "score": np.ones(4)}, "holds no matrix"),
    "images and labels": ({"x": np.ones((9, 4, 4)), "y": np.arange(9)}, "under the names of data, 'x', 'y'"),
    "images of bytes": ({"train_images": np.ones((9, 4), np.uint8), "train_labels": np.arange(9)}, "names of data"),
    "one of many": ({"X_train": np.ones((9, 4)), "yTest": np.ones((9, 2))}, "names of data"),
}


@pytest.mark.parametrize("name", NO_NETWORKS)
def test_files_that_hold_no_network(tmp_path, name):
    held, reason = NO_NETWORKS[name]
    np.savez(tmp_path / "a.npz", **held)
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(tmp_path / "a.npz")
    assert holds_data(tmp_path / "a.npz")


def test_what_may_be_rows_of_data_is_told(tmp_path):
    np.savez(tmp_path / "rows.npz", measured=np.ones((9, 4)), step=np.arange(9))
    assert "rows of data" in open_checkpoint(tmp_path / "rows.npz").metadata["warnings"][0]
    np.savez(tmp_path / "net.npz", w=np.ones((4, 3)), b=np.ones(4), x=np.ones((2, 4)), steps=np.int64(7))
    assert "warnings" not in open_checkpoint(tmp_path / "net.npz").metadata
    assert holds_data(tmp_path / "rows.npz") and not holds_data(tmp_path / "net.npz")


def npz(path, header, data=b"", magic=b"\x93NUMPY\1\0"):
    member = magic + len(header).to_bytes(2, "little") + header + data
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", member)
    return write(path / "a.npz", file.getvalue())


HOSTILE = [
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': 2, }",
    b"{'descr': '<f4', 'fortran_order': 7, 'shape': (2,), }",
    b"{'descr': '<q9', 'fortran_order': False, 'shape': (2,), }",
    b"{'descr': '<f4', 'shape': (2,), }",
    b"{'descr': __import__('os').system('false'), 'fortran_order': False, 'shape': (2,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L,",
    b"\0" * 20,
    b"(" * 9000,
    b"{" + b"'a':[" * 1500,
    b"",
]


@pytest.mark.parametrize("header", HOSTILE, ids=range(len(HOSTILE)))
def test_headers_that_lie(tmp_path, header):
    with pytest.raises(CheckpointError, match=r"array 'w'|tensor 'w'"):
        open_checkpoint(npz(tmp_path, header, bytes(8)))


@pytest.mark.parametrize("magic", [b"\x93NUMPY\1\7", b"\x93NUMPY\3\0", b"NUMPY\0\0\0", b""])
def test_versions_that_are_not_known(tmp_path, magic):
    with pytest.raises(CheckpointError, match="header of array 'w' is broken"):
        open_checkpoint(npz(tmp_path, HOSTILE[1], bytes(12), magic))


def test_headers_of_python_2(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 1L), }"
    path = npz(tmp_path, header, np.ones(2, "<f4").tobytes())
    np.testing.assert_array_equal(np.asarray(open_checkpoint(path).tensors["w"]), [[1], [1]])
