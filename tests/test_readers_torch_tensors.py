import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from wsrl.checkpoint import CheckpointError
from wsrl.readers.allowlist import PickledArray, Quantizer, Storage, StoredTensor
from wsrl.readers.torch_tensors import Storages, lazy_tensors

FLOAT32 = np.dtype(np.float32)


class OneStorage(Storages):
    """A storage in memory; counts how often it is read."""

    def __init__(self, array, big_endian=False):
        super().__init__(Path("file.pt"), array.nbytes, big_endian)
        self.data = array.view(np.uint8).ravel()
        self.reads = 0

    def locate(self, storage):
        return len(self.data), self.read

    def read(self):
        self.reads += 1
        return self.data


def stored(entries, shape, strides, offset=0, **more):
    return StoredTensor(Storage("0", FLOAT32, entries), FLOAT32, offset, shape, strides, **more)


def test_nothing_is_read_before_it_is_asked_for():
    storages = OneStorage(np.arange(12, dtype=np.float32))
    tensor = lazy_tensors({"w": stored(12, (3, 4), (4, 1))}, storages)[0]["w"]
    assert storages.reads == 0
    np.testing.assert_array_equal(tensor.rows(1, 2), [[4, 5, 6, 7]])
    assert storages.reads == 1


def test_rows_take_the_memory_of_rows():
    storages = OneStorage(np.zeros(4_000_000, np.float16))
    tensor = StoredTensor(Storage("0", np.dtype(np.float16), 0), np.dtype(np.float16), 0, (2000, 2000), (2000, 1))
    lazy = lazy_tensors({"w": tensor}, storages)[0]["w"]
    tracemalloc.start()
    lazy.rows(100, 110)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_entries_that_repeat():
    storages = OneStorage(np.arange(3, dtype=np.float32))
    tensor = lazy_tensors({"w": stored(3, (4, 3), (0, 1))}, storages)[0]["w"]
    np.testing.assert_array_equal(np.asarray(tensor), [[0, 1, 2]] * 4)
    with pytest.raises(CheckpointError, match="repeats few entries too often"):
        lazy_tensors({"w": stored(3, (2**24, 3), (0, 1))}, storages)


def test_arrays_in_the_pickle():
    array = PickledArray()
    array.array = np.arange(6.0).reshape(2, 3)
    tensor = lazy_tensors({"w": array}, OneStorage(np.zeros(1)))[0]["w"]
    assert tensor.dtype == "float64"
    np.testing.assert_array_equal(np.asarray(tensor), array.array)


@pytest.mark.parametrize("axis, size", [(2, 3), (-1, 3), (0, 3), (1, 2)])
def test_scales_that_do_not_fit(axis, size):
    scale = stored(size, (size,), (1,))
    tensor = stored(6, (2, 3), (3, 1), quantizer=Quantizer(scale, scale, axis))
    with pytest.raises(CheckpointError, match="scales of tensor 'w' do not fit"):
        lazy_tensors({"w": tensor}, OneStorage(np.zeros(6, np.float32)))


def test_scales_beyond_their_storage():
    tensor = stored(6, (2, 3), (3, 1), quantizer=Quantizer(stored(9, (9,), (1,)), 0.0, 0))
    with pytest.raises(CheckpointError, match="its scale"):
        lazy_tensors({"w": tensor}, OneStorage(np.zeros(6, np.float32)))
