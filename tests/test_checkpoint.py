import numpy as np
import pytest
import safetensors.numpy

from wsrl.checkpoint import CheckpointError, read_checkpoint


def write(path, **tensors):
    safetensors.numpy.save_file(tensors, path, {"activation": "relu"})
    return path


def test_round_trip(tmp_path):
    path = write(tmp_path / "a.safetensors", w=np.ones((2, 3), np.float16), n=np.ones(2, np.int64))
    checkpoint = read_checkpoint(path)
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.tensors["w"].dtype == np.float32
    assert checkpoint.metadata == {"activation": "relu"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    path = write(tmp_path / "a.safetensors", w=np.array([1.0, value], np.float32))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: tensor 'w' holds NaN or Inf; "):
        read_checkpoint(path)


def test_every_truncation_is_refused_in_one_line(tmp_path):
    whole = write(tmp_path / "a.safetensors", w=np.ones((4, 4), np.float32)).read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"^[^\n]*cut\.safetensors: [^\n]+; [^\n]+$"):
            read_checkpoint(path)


def test_missing_folder_foreign_and_empty_files(tmp_path):
    (tmp_path / "zip").write_bytes(b"PK\x03\x04" + b"\0" * 64)
    (tmp_path / "huge").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    write(tmp_path / "ints", n=np.ones(2, np.int64))
    for name in ("missing", "zip", "huge", "ints", "."):
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / name)
