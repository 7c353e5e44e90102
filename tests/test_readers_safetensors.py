import json
import os
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from experiments.proofs.samples import write
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.readers.number_types import number_type
from wsrl.readers.safetensors import TYPES, matches, open_file


def file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return write(path / "a.safetensors", len(text).to_bytes(8, "little") + text + data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("kind", TYPES)
def test_all_types(tmp_path, kind):
    dtype = number_type(TYPES[kind])
    array = np.array([[1, 2, 4], [8, 1, 1]]).astype(dtype)
    path = file(tmp_path, {"w": entry(kind, (2, 3), (0, array.nbytes))}, array.tobytes())
    tensor = open_file(path).tensors["w"]
    assert (tensor.dtype, tensor.shape) == (dtype.name, (2, 3))
    if dtype.kind != "c":
        np.testing.assert_array_equal(np.asarray(tensor), array.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float64])
def test_files_of_the_library(tmp_path, dtype):
    array = np.random.default_rng(0).standard_normal((5, 3)).astype(dtype)
    safetensors.numpy.save_file({"w": array, "s": np.ones((), dtype)}, tmp_path / "a", {"framework": "pt"})
    checkpoint = open_checkpoint(tmp_path / "a")
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), array.astype(np.float32))
    assert checkpoint.tensors["s"].shape == ()
    assert checkpoint.metadata["framework"] == "pt"


@given(st.lists(array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), min_size=1, max_size=6))
def test_any_shapes(tmp_path_factory, shapes):
    path = tmp_path_factory.mktemp("any") / "a"
    tensors = {f"t{i}": np.full(shape, i, np.float32) for i, shape in enumerate([(2,), *shapes])}
    safetensors.numpy.save_file(tensors, path)
    found = open_checkpoint(path).tensors
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(np.asarray(found[name]), array)


def test_tensors_come_in_the_order_of_their_bytes(tmp_path):
    header = {"b": entry(offsets=(8, 16)), "a": entry(offsets=(16, 24)), "c": entry(offsets=(0, 8))}
    assert list(open_file(file(tmp_path, header, bytes(24))).tensors) == ["c", "b", "a"]


def test_packed_types_are_left_out(tmp_path):
    header = {"p": entry("F4", (4,), (0, 2)), "w": entry("F32", (1,), (2, 6))}
    checkpoint = open_checkpoint(file(tmp_path, header, bytes(6)))
    assert list(checkpoint.tensors) == ["w"] and checkpoint.metadata["left_out"] == ("p",)


HOSTILE = {
    "beyond the file": ({"w": entry(offsets=(0, 16), shape=(4,))}, "ends at byte 16 of 8"),
    "overlap": ({"v": entry(), "w": entry(shape=(1,), offsets=(4, 8))}, "overlaps"),
    "gap": ({"w": entry(shape=(1,), offsets=(4, 8))}, "gap"),
    "rest": ({"w": entry(shape=(1,), offsets=(0, 4))}, "belong to none"),
    "shape": ({"w": entry(shape=(3,))}, "3 entries"),
    "absurd shape": ({"w": entry(shape=(2**60,))}, "absurd"),
    "absurd product": ({"w": entry(shape=(2**30, 2**30))}, "absurd"),
    "absurd empty shape": ({"w": entry(shape=(0, 2**60), offsets=(0, 0))}, "absurd"),
    "many axes": ({"w": entry(shape=[1] * 100)}, "absurd"),
    "negative shape": ({"w": entry(shape=(-1, -2))}, "whole numbers"),
    "fractional shape": ({"w": entry(shape=(2.0,))}, "whole numbers"),
    "true shape": ({"w": entry(shape=(True, 2))}, "whole numbers"),
    "negative offsets": ({"w": entry(offsets=(-8, 0))}, "bytes -8 to 0"),
    "reversed offsets": ({"w": entry(offsets=(8, 0))}, "bytes 8 to 0"),
    "three offsets": ({"w": entry(offsets=(0, 4, 8))}, "well-formed"),
    "unknown type": ({"w": entry("F33")}, "unknown type"),
    "no type": ({"w": {"shape": [2], "data_offsets": [0, 8]}}, "well-formed"),
    "no entry": ({"w": None}, "well-formed"),
    "surrogate": ({"\ud800": entry()}, "not a tensor's name"),
    "metadata": ({"__metadata__": {"a": 1}, "w": entry()}, "metadata"),
    "list": (b"[]" * 10, "header"),
    "twice": (b'{"w":%s,"w":%s}' % ((json.dumps(entry()).encode(),) * 2), "occurs twice"),
    "deep": (b'{"w":' * 50_000, "not valid JSON"),
    "long number": (b'{"w":' + b"9" * 5000 + b"}", "not valid JSON"),
    "no text": (b'{"\xff":1}', "not valid JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_lie(tmp_path, name):
    header, reason = HOSTILE[name]
    with pytest.raises(CheckpointError, match=reason):
        open_file(file(tmp_path, header, bytes(8)))


@pytest.mark.parametrize("length", [0, 1, 3, 2**31, 2**60, 2**64 - 1])
def test_header_lengths_that_lie(tmp_path, length):
    path = write(tmp_path / "a", length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError):
        open_file(path)


def test_long_headers_are_not_read(tmp_path):
    path = tmp_path / "a"
    with open(path, "wb") as output:
        output.write((1 << 30).to_bytes(8, "little") + b"{")
        output.truncate((1 << 30) + 8)
    with pytest.raises(CheckpointError, match="more than"):
        open_file(path)


def test_memory_for_many_tensors_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("wsrl.readers.budget.DESCRIPTION", 0)
    header = {str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(40_000)}
    with pytest.raises(CheckpointError, match="more nodes, tensors"):
        open_file(file(tmp_path, header))


def test_a_large_file_opens_by_its_header(tmp_path):
    path = file(tmp_path, {"w": entry("F16", (2**20, 2**12), (0, 2**33))})
    os.truncate(path, path.stat().st_size + 2**33)
    tracemalloc.start()
    tensor = open_checkpoint(path).tensors["w"]
    rows = tensor.rows(2**20 - 2, 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (2, 2**12) and peak < 2**20


def test_matches(tmp_path):
    assert matches(b"\2\0\0\0\0\0\0\0{}", tmp_path)
    assert not matches(b"GGUF\3\0\0\0{\0", tmp_path)
