import os

import numpy as np
import pytest

from experiments.proofs.samples import write
from wsrl.checkpoint import CheckpointError
from wsrl.readers.mapped import HEAD, MARGIN, SMALL, checked_name, checked_shape, map_file, memory_limit, read_head


@pytest.mark.parametrize("size", [0, 1, SMALL, SMALL + 1])
def test_bytes_of_a_file(tmp_path, size):
    content = np.random.default_rng(0).bytes(size)
    data = map_file(write(tmp_path / "a", content))
    assert data.dtype == np.uint8 and data.tobytes() == content and not data.flags.writeable


def test_many_small_files_hold_no_descriptors(tmp_path):
    path = write(tmp_path / "a", b"content")
    before = len(os.listdir("/proc/self/fd"))
    kept = [map_file(path) for _ in range(100)]
    assert len(os.listdir("/proc/self/fd")) == before and len(kept) == 100


def test_heads(tmp_path):
    assert read_head(write(tmp_path / "a", b"x" * 10_000)) == b"x" * HEAD
    assert read_head(tmp_path) == b""
    with pytest.raises(CheckpointError, match="is empty"):
        read_head(write(tmp_path / "b", b""))
    with pytest.raises(FileNotFoundError):
        read_head(tmp_path / "c")


def test_memory_limit():
    assert memory_limit(10) == 20 + MARGIN


@pytest.mark.parametrize("shape", [[], [0], [2, 3], (1,) * 32, [0, 2**40], [2**48]])
def test_shapes(tmp_path, shape):
    assert checked_shape(shape, tmp_path, "w") == tuple(shape)


@pytest.mark.parametrize("shape", [None, 1, "12", {}, [-1], [1.0], [True], [None], (1,) * 33, [2**49], [0, 2**60]])
def test_impossible_shapes(tmp_path, shape):
    with pytest.raises(CheckpointError, match="shape of tensor 'w'"):
        checked_shape(shape, tmp_path, "w")


def test_names(tmp_path):
    assert checked_name("größe", tmp_path) == "größe"
    for name in ("\ud800", 1, None, b"x"):
        with pytest.raises(CheckpointError):
            checked_name(name, tmp_path)
