import numpy as np
import pytest
import safetensors.numpy

from wsrl.checkpoint import CheckpointError, LazyTensor, one_line
from wsrl.readers import read_checkpoint


def write(path, **tensors):
    safetensors.numpy.save_file(tensors, path, {"activation": "relu"})
    return path


def test_round_trip(tmp_path):
    path = write(tmp_path / "a.safetensors", w=np.ones((2, 3), np.float16), n=np.ones(2, np.int64))
    checkpoint = read_checkpoint(path)
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.tensors["w"].dtype == np.float32
    assert checkpoint.metadata == {"format": "safetensors", "activation": "relu", "left_out": ("n",)}


def test_what_is_read_is_a_copy(tmp_path):
    path = write(tmp_path / "a.safetensors", w=np.ones((2, 3), np.float32))
    values = read_checkpoint(path).tensors["w"]
    assert isinstance(values, np.ndarray) and values.flags.writeable


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    path = write(tmp_path / "a.safetensors", w=np.array([1.0, value], np.float32))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: tensor 'w' holds NaN or Inf; "):
        read_checkpoint(path)


def test_values_beyond_float32_are_refused(tmp_path):
    path = write(tmp_path / "a.safetensors", w=np.array([1e300]))
    with pytest.raises(CheckpointError, match="NaN or Inf"):
        read_checkpoint(path)


def test_lazy_tensor_reads_only_the_rows_asked_for():
    asked = []

    def read_rows(start, stop):
        asked.append((start, stop))
        return np.full((stop - start, 2), start, np.float16)

    tensor = LazyTensor((5, 2), "float16", read_rows, "file", "w")
    assert tensor.ndim == 2 and tensor.size == 10
    assert tensor.rows(1, 3).dtype == np.float32
    assert np.asarray(tensor).shape == (5, 2)
    assert asked == [(1, 3), (0, 5)]


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3)])
def test_lazy_tensor_of_an_array(shape):
    array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    tensor = LazyTensor.of(array, "file", "w")
    assert (tensor.shape, tensor.dtype) == (shape, "float64")
    np.testing.assert_array_equal(np.asarray(tensor), array)
    assert np.asarray(tensor, np.float64).dtype == np.float64


def test_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 1000))) == 200
