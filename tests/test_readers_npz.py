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

NUMBERS = arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.dtype(">f4")]),
    array_shapes(min_dims=0, max_dims=4, min_side=0),
    elements={"allow_nan": False, "min_value": -1e4, "max_value": 1e4},
)


@given(NUMBERS, st.booleans(), st.booleans())
def test_any_array(tmp_path_factory, array, fortran, compressed):
    array = np.asfortranarray(array) if fortran and array.ndim else array
    path = tmp_path_factory.mktemp("any") / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, w=array)
    tensor = open_checkpoint(path).tensors["w"]
    assert tensor.shape == array.shape
    np.testing.assert_array_equal(np.asarray(tensor), array.astype(np.float32))


def test_two_bytes_without_a_type_are_bfloat16(tmp_path):
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    np.savez(tmp_path / "a.npz", w=array)
    tensor = open_checkpoint(tmp_path / "a.npz").tensors["w"]
    assert tensor.dtype == "bfloat16"
    np.testing.assert_array_equal(np.asarray(tensor), [1.5, -2.0])


def test_objects_texts_and_records_are_left_out(tmp_path):
    objects = np.array([{"a": 1}, None])
    record = np.zeros(2, [("x", "f4"), ("y", "i4")])
    np.savez(tmp_path / "a.npz", w=np.ones(2), o=objects, t=np.array(["text"]), r=record, i=np.ones(2, int))
    checkpoint = open_checkpoint(tmp_path / "a.npz")
    assert list(checkpoint.tensors) == ["w"]
    assert sorted(checkpoint.metadata["left_out"]) == ["i", "o", "r", "t"]
    np.savez(tmp_path / "b.npz", o=objects)
    with pytest.raises(CheckpointError, match="no floating-point tensor, only 'o'"):
        open_checkpoint(tmp_path / "b.npz")


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
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }"
    path = npz(tmp_path, header, np.ones(2, "<f4").tobytes())
    np.testing.assert_array_equal(np.asarray(open_checkpoint(path).tensors["w"]), [1, 1])
