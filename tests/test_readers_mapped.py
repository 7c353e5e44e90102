import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments.proofs.samples import write
from wsrl.checkpoint import CheckpointError
from wsrl.readers.archives import open_archive
from wsrl.readers.mapped import (
    HEAD,
    MARGIN,
    SMALL,
    checked_name,
    checked_shape,
    forget,
    map_file,
    memory_limit,
    read_head,
)


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


def resident() -> int:
    """Bytes of mapped files that this process holds in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is resident")
def test_mapped_bytes_are_forgotten(tmp_path):
    content = np.random.default_rng(0).bytes(32 << 20)
    data = map_file(write(tmp_path / "a", content))
    assert int(data.sum()) and (before := resident())
    forget(data[5 : 24 << 20])
    assert before - resident() > 20 << 20
    assert data.tobytes() == content
    forget(np.frombuffer(content, np.uint8))  # is not mapped
    forget(data[:0])
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a", content)
    before = resident()
    assert open_archive(tmp_path / "a.zip").read("a").tobytes() == content
    assert resident() - before < 4 << 20


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
