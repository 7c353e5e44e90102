import contextlib

import flax.serialization
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.proofs.samples_flax import SAMPLES, train_state
from wsrl.checkpoint import CheckpointError
from wsrl.readers import budget, flax_msgpack, open_checkpoint
from wsrl.readers.budget import Budget
from wsrl.readers.flax_names import model_names
from wsrl.readers.messagepack import PackError, Walker


def test_tensors_of_a_train_state(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["flax_msgpack"](tmp_path))
    state = train_state()
    assert set(checkpoint.metadata["left_out"]) == {"opt_state", "step"}
    for collection in (state["params"], state["batch_stats"]):
        for layer, tensors in collection.items():
            for name, array in tensors.items() if isinstance(tensors, dict) else [(None, tensors)]:
                tensor = checkpoint.tensors[f"{layer}/{name}" if name else layer]
                assert tensor.dtype == array.dtype.name
                np.testing.assert_array_equal(np.asarray(tensor), array.astype(np.float32))


def test_rows_of_an_array_in_pieces(tmp_path):
    tensor = open_checkpoint(SAMPLES["flax_msgpack-chunked"](tmp_path)).tensors["dense/kernel"]
    array = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(np.asarray(tensor), array)
    for start in range(5):
        for stop in range(start, 5):
            np.testing.assert_array_equal(tensor.rows(start, stop), array[start:stop])


@pytest.mark.parametrize(
    ("leaves", "names", "left_out"),
    [
        (["params/a/w", "batch_stats/a/mean", "opt_state/w", "step"], ["a/w", "a/mean"], ["opt_state", "step"]),
        (["params/params/a/w", "params/batch_stats/a/mean"], ["a/w", "a/mean"], []),
        (["params/a/w", "batch_stats/a/w"], ["params/a/w", "batch_stats/a/w"], []),  # would be the same
        (["step/kernel", "opt/kernel"], ["step/kernel", "opt/kernel"], []),  # a layer may be called so
        (["a/w/value", "b/value"], ["a/w", "b"], []),
        (["params"], ["params"], []),
    ],
)
def test_names(leaves, names, left_out):
    found, training = model_names({tuple(leaf.split("/")): leaf for leaf in leaves})
    assert list(found) == names and list(training) == left_out


def array(shape=(2,), kind="float32", content=bytes(8), code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, kind, content), use_bin_type=True))


def chunked(shape, *pieces):
    named = {str(i): piece for i, piece in enumerate(pieces)}
    return {"__msgpack_chunked_array__": True, "shape": {str(i): n for i, n in enumerate(shape)}, "chunks": named}


BROKEN = [
    array((2**60,)),
    array((2**31, 2**31, 2**31)),
    array((3,)),
    array((-2,)),
    array((2.0,)),
    array("2"),
    array(kind=3),
    msgpack.ExtType(1, b""),
    msgpack.ExtType(1, b"\xc1"),
    msgpack.ExtType(3, msgpack.packb([1])),
    chunked([5], array(), array()),
    chunked([4], array(), array(kind="int32")),
    chunked([2], 1),
    chunked([0]),
]


@pytest.mark.parametrize("leaf", BROKEN, ids=range(len(BROKEN)))
def test_arrays_that_do_not_fit_are_refused(tmp_path, leaf):
    (tmp_path / "a").write_bytes(msgpack.packb({"fine": array(), "w": leaf}))
    with pytest.raises(CheckpointError, match=r"a: .*; "):
        open_checkpoint(tmp_path / "a")


def test_leaves_that_are_no_arrays_are_left_out(tmp_path):
    tree = {"w": np.ones(2, np.float32), "z": 1j, "c": np.ones(2, np.complex64), "n": None, "t": "text", "l": [1, {}]}
    (tmp_path / "a").write_bytes(flax.serialization.msgpack_serialize(tree))
    checkpoint = open_checkpoint(tmp_path / "a")
    assert checkpoint.tensors.keys() == {"w"}
    assert set(checkpoint.metadata["left_out"]) == {"z", "c", "n", "t", "l/0"}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=30,
)


def walker(content, path):
    return Walker(memoryview(content), Budget(path, len(content)))


@given(PLAIN)
def test_values_are_those_of_the_library(tmp_path_factory, value):
    assert walker(msgpack.packb(value), tmp_path_factory.getbasetemp()).value() == value


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_pack_error(tmp_path_factory, content):
    with contextlib.suppress(PackError):
        walker(content, tmp_path_factory.getbasetemp()).value()


@pytest.mark.parametrize(
    "content", [b"\x91" * 70, b"\x81" * 3000, b"\xdd\xff\xff\xff\xff", b"\x82\xa1a\x01\xa1a\x01", b"\x81\xc0\x01"]
)
def test_what_has_no_end_or_no_keys_is_refused(tmp_path, content):
    with pytest.raises(PackError):
        walker(content, tmp_path).value()


def test_many_small_values_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "memory_limit", lambda size: 100_000 - budget.DESCRIPTION)
    (tmp_path / "a").write_bytes(msgpack.packb({"a": [1] * 3000}))
    with pytest.raises(CheckpointError, match="more nodes"):
        open_checkpoint(tmp_path / "a")


@pytest.mark.parametrize(
    "head", [b"", b"\x80", b"\x81\x01\x01", b"\x82\xa2a\x00\x01", b"\x91\xa1a", b"hello", b"\x81", b"\xff"]
)
def test_other_files_are_not_taken_for_flax(tmp_path, head):
    assert not flax_msgpack.matches(head, tmp_path)
