from pathlib import Path

import numpy as np
import pytest

from wsrl.checkpoint import CheckpointError
from wsrl.readers.allowlist import Storage, StoredTensor
from wsrl.readers.pickles import Instance
from wsrl.readers.state_dict import find_state_dict, flatten

FILE = Path("file.pt")


def leaf(size=2):
    return StoredTensor(Storage("0", np.dtype(np.float32), size), np.dtype(np.float32), 0, (size,), (1,))


A, B, BIG = leaf(), leaf(), leaf(9)
CASES = {
    "plain": ({"a.weight": A, "b.weight": B}, ["a.weight", "b.weight"], []),
    "nested": ({"state_dict": {"a": A}, "epoch": 1}, ["a"], ["epoch"]),
    "the largest": ({"model": {"a": A}, "ema": {"b": BIG}}, ["b"], ["model"]),
    "the first of one size": ({"model_ema": {"b": B}, "model": {"a": A}}, ["a"], ["model_ema"]),
    "twice nested": ({"model": {"state_dict": {"a": A}, "x": 1}, "y": 2}, ["a"], ["y", "model.x"]),
    "a tensor beside": ({"state_dict": {"a": BIG}, "best": A}, ["a"], ["best"]),
    "optimizer": ({"a": A, "optimizer": {"state": {0: {"exp_avg": B}}}}, ["a"], ["optimizer"]),
    "several models": ({"G": {"a": A}, "D": {"a": B}, "step": 1}, ["G.a", "D.a"], ["step"]),
    "lists": ([A, (B, {"c": A})], ["0", "1.0", "1.1.c"], []),
    "a tensor": (A, ["tensor"], []),
    "numbers as keys": ({0: A, 1: {2: B}}, ["0", "1.2"], []),
    "a parameter called model": ({"model": A, "b": B}, ["model", "b"], []),
    "script": (Instance({"a": A, "inner": Instance({"b": B})}), ["a", "inner.b"], []),
    "nothing": ({"epoch": 1}, [], ["epoch"]),
    "none": (None, [], []),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_the_model(name):
    value, names, left_out = CASES[name]
    tensors, rest = find_state_dict(value, FILE)
    assert list(tensors) == names and list(rest) == left_out


def test_containers_that_contain_themselves():
    value: dict = {"a": A}
    value["model"] = value
    assert list(find_state_dict(value, FILE)[0]) == ["a"]
    items: list = [A]
    items.append(items)
    assert list(flatten(items, FILE)) == ["0"]


def test_shared_containers_are_walked_once():
    value: object = {"a": A}
    for _ in range(50):
        value = [value, value, value]
    assert len(flatten(value, FILE)) == 1


def test_deep_nesting_is_refused():
    value: object = A
    for _ in range(1000):
        value = {"model": value}
    with pytest.raises(CheckpointError, match="nested more than"):
        find_state_dict(value, FILE)


def test_two_tensors_of_one_name():
    with pytest.raises(CheckpointError, match=r"two tensors are named 'a\.b'"):
        flatten({"a.b": A, "a": {"b": B}}, FILE)


def test_names_that_cannot_be_written():
    with pytest.raises(CheckpointError, match="not a tensor's name"):
        flatten({"\ud800": A}, FILE)


def test_names_that_would_grow():
    key = "k" * 100_000
    for value in ({key: A}, {"k" * 4000: {"k" * 4000: A}}):
        with pytest.raises(CheckpointError, match="not a tensor's name"):
            find_state_dict(value, FILE)
    assert len(find_state_dict({"model": {"a": A}, key: 1}, FILE)[1][0]) == 80


def test_too_many_tensors(monkeypatch):
    monkeypatch.setattr("wsrl.readers.state_dict.MOST_TENSORS", 10)
    assert len(flatten([A] * 10, FILE)) == 10
    with pytest.raises(CheckpointError, match="more than 10 tensors"):
        flatten([A] * 11, FILE)
