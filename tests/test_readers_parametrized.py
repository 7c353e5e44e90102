import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsrl.checkpoint import LazyTensor
from wsrl.readers.parametrized import effective, unknown

RNG = np.random.default_rng(0)


def lazy(arrays):
    return {name: LazyTensor.of(np.asarray(array), "file", name) for name, array in arrays.items()}


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def check(parts, name, expected):
    tensors = effective(lazy({"first.bias": normal(2), **parts, "last.bias": normal(2)}))
    assert list(tensors) == ["first.bias", name, "last.bias"]
    found = tensors[name]
    assert found.shape == expected.shape and found.name == name
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5)
    np.testing.assert_allclose(found.rows(1, 3), expected[1:3], rtol=1e-5)


NAMES = [
    ("a.weight", "a.weight_g", "a.weight_v"),
    ("weight_hh_l0", "weight_hh_l0_g", "weight_hh_l0_v"),
    ("a.weight", "a.parametrizations.weight.original0", "a.parametrizations.weight.original1"),
    ("weight", "parametrizations.weight.original0", "parametrizations.weight.original1"),
]


@pytest.mark.parametrize(("name", "g", "v"), NAMES)
@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_weight_norm(name, g, v, axis):
    stored = normal(4, 3, 5)
    others = tuple(i for i in range(3) if i != axis)
    norm = np.sqrt((stored**2).sum(others, keepdims=True)) if axis is not None else np.sqrt((stored**2).sum())
    gain = normal(*norm.shape)
    check({g: gain, v: stored}, name, gain * stored / norm)


def test_weight_norm_of_a_row_of_zeros_is_zero():
    tensor = effective(
        lazy(
            {
                "weight_g": np.ones((2, 1), np.float32),
                "weight_v": np.eye(1, 3, dtype=np.float32).repeat(2, 0) * [[1], [0]],
            }
        )
    )
    np.testing.assert_array_equal(np.asarray(tensor["weight"]), [[1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2, 2), (4, 4, 3)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("new", [False, True])
def test_spectral_norm(shape, axis, new):
    stored = normal(*shape)
    matrix = np.moveaxis(stored, axis, 0).reshape(shape[axis], -1)
    left, values, right = np.linalg.svd(matrix)
    parts = {"orig": stored, "u": left[:, 0], "v": right[0]}
    names = {"orig": "original", "u": "0._u", "v": "0._v"}
    told = {f"a.parametrizations.weight.{names[k]}" if new else f"a.weight_{k}": part for k, part in parts.items()}
    check(told, "a.weight", stored / values[0])


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.uint8])
def test_pruned(dtype):
    stored, mask = normal(4, 3), RNG.integers(0, 2, (4, 3)).astype(dtype)
    check({"a.weight_orig": stored, "a.weight_mask": mask}, "a.weight", stored * mask)


CHANCE = [
    {"x_g": normal(1, 1, 4), "x_v": normal(1, 1, 4)},  # two parameters of one shape
    {"weight_g": normal(3, 1), "weight_v": normal(4, 5)},
    {"weight_g": normal(4, 1), "weight_v": normal(4, 5), "weight": normal(4, 5)},
    {"weight_g": normal(4, 1), "weight_v": normal(4, 5), "weight_u": normal(4)},
    {"weight_orig": normal(4, 3), "weight_mask": normal(3)},
    {"weight_orig": normal(4, 3), "weight_u": normal(5), "weight_v": normal(3)},
    {"weight_v": normal(4, 5)},
]


@pytest.mark.parametrize("arrays", CHANCE)
def test_parts_that_do_not_belong_together_stay(arrays):
    tensors = effective(lazy(arrays))
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(tensors[name]), array)


def test_parametrizations_that_are_not_known_are_named():
    tensors = effective(
        lazy({"a.parametrizations.weight.original": normal(3, 3), "a.parametrizations.weight.0.base": normal(3, 3)})
    )
    assert unknown(tensors) == list(tensors) and len(tensors) == 2


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 5), st.integers(0, 5))
def test_rows_are_those_of_the_whole(units, inputs, start, length):
    tensors = lazy({"weight_g": normal(1, inputs), "weight_v": normal(units, inputs)})
    tensor = effective(tensors).get("weight")
    if tensor is not None:
        np.testing.assert_array_equal(tensor.rows(start, start + length), np.asarray(tensor)[start : start + length])
