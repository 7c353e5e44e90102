"""Same numbers, same units, precision, and which network was rounded."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import draw_network

from wsrl.checkpoint import Checkpoint, LazyTensor
from wsrl.comparison.same_numbers import same_numbers
from wsrl.origins.precision import is_widened, main_type, precision, type_bits
from wsrl.origins.rounding import rounded_from
from wsrl.origins.same_units import same_units
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry
from wsrl.zoo.copies import quantize


def checkpoint(tensors: dict[str, np.ndarray]) -> Checkpoint:
    return Checkpoint("x", {n: LazyTensor.of(t, "x", n) for n, t in tensors.items()}, {})


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"conv": (16, 3, 3, 3), "lstm": (64, 24), "bias": (64,), "dense": (10, 64), "out": (10,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def regated(tensor: np.ndarray) -> np.ndarray:
    return np.concatenate([tensor[i * 16 : i * 16 + 16] for i in (0, 2, 1, 3)])


CONVERTED = {
    "transposed": lambda own: {n: np.ascontiguousarray(t.T) for n, t in own.items()},
    "kernels last": lambda own: own | {"conv": own["conv"].transpose(2, 3, 1, 0).copy()},
    "kernels flat": lambda own: own | {"conv": own["conv"].reshape(16, 27)},
    "gates in another order": lambda own: own | {n: regated(own[n]) for n in ("lstm", "bias")},
    "maps flattened otherwise": lambda own: (
        own | {"dense": own["dense"].reshape(10, 4, 16).transpose(0, 2, 1).reshape(10, 64)}
    ),
    "constants added": lambda own: (
        own | {"epsilon": np.array([1e-5], np.float32), "positions": np.arange(7, dtype=np.float32)}
    ),
    "a vector dropped": lambda own: {n: t for n, t in own.items() if n != "out"},
}
OTHER = {
    "a bias trained": lambda own: own | {"bias": own["bias"] + np.float32(1e-6)},
    "rows shuffled": lambda own: own | {"dense": own["dense"][::-1].copy()},
    "units of one layer shuffled": lambda own: own | {"lstm": np.random.default_rng(1).permutation(own["lstm"])},
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_converters_do_is_no_difference(name):
    assert same_numbers(checkpoint(tensors()), checkpoint(CONVERTED[name](tensors())))


@pytest.mark.parametrize("name", OTHER)
def test_other_numbers_and_other_orders_are(name):
    assert not same_numbers(checkpoint(tensors()), checkpoint(OTHER[name](tensors())))


@settings(max_examples=8)
@given(st.sampled_from(["mlp", "cnn_gap", "resnet"]), st.integers(0, 50))
def test_permuted_networks_have_the_same_units(family, seed):
    own, _ = draw_network(family, 0, seed)
    moved = random_symmetry(own, read_program(own).wiring, np.random.default_rng(seed), scale=False)
    a, b = (checkpoint({n: np.asarray(t) for n, t in c.tensors.items()}) for c in (own, moved))
    assert same_units(a, b) is True
    name = max((n for n in b.tensors if b.tensors[n].ndim > 1), key=lambda n: b.tensors[n].size)
    values = np.asarray(b.tensors[name])
    order = np.random.default_rng(seed).permutation(values.shape[-1])
    if (order != np.arange(len(order))).any():
        shuffled = {n: np.asarray(t) for n, t in b.tensors.items()} | {name: values[..., order].copy()}
        assert same_units(a, checkpoint(shuffled)) is False


def test_other_architectures_cannot_be_told():
    a, b = (draw_network(family, 0)[0] for family in ("mlp", "resnet"))
    assert same_units(*(checkpoint({n: np.asarray(t) for n, t in c.tensors.items()}) for c in (a, b))) is None


@pytest.mark.parametrize(
    ("change", "bits"),
    [
        (lambda t: t, 32),
        (lambda t: t.astype(np.float16), 16),
        (lambda t: t.astype(ml_dtypes.bfloat16).astype(np.float32), 16),
        (lambda t: quantize({"w": t})["w"], 8),
    ],
)
def test_precision_is_that_of_the_numbers(change, bits):
    rng = np.random.default_rng(0)
    own = {name: change(rng.standard_normal((64, 64)).astype(np.float32)) for name in "ab"}
    assert precision(own) == bits


def test_types_and_their_bits():
    names = {"float32": 32, "bfloat16": 16, "float8_e4m3fn": 8, "q4_0": 4, "iq2_xxs": 2, "int8": 8, "": 0}
    assert {name: type_bits(name) for name in names} == names
    assert main_type({"a": np.zeros(9, np.float16), "b": np.zeros(3, np.float32)}) == "float16"
    assert not is_widened({"a": np.ones((9, 9), np.float32)}) and not is_widened({"a": np.ones(9, np.float16)})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rounding_to_a_type_is_exact_or_none(dtype):
    own = tensors()
    narrow = {n: t.astype(dtype) for n, t in own.items()}
    assert rounded_from(checkpoint(own), checkpoint(narrow)) == "b"
    assert rounded_from(checkpoint(narrow), checkpoint(own)) == "a"
    assert rounded_from(checkpoint(own), checkpoint(own)) is None
    other = own | {"bias": own["bias"] + np.float32(0.01)}
    assert rounded_from(checkpoint(other), checkpoint(narrow)) is None
    assert rounded_from(checkpoint({f"x.{n}": t for n, t in own.items()}), checkpoint(narrow)) is None
