import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsrl.checkpoint import LazyTensor
from wsrl.readers.quantized import dequantize

RNG = np.random.default_rng(0)
INT8 = RNG.integers(-127, 128, (6, 8)).astype(np.int8)
UINT8 = RNG.integers(0, 256, (6, 8)).astype(np.uint8)
FP8 = RNG.standard_normal((6, 8)).astype(ml_dtypes.float8_e4m3fn)


def lazy(arrays):
    return {name: LazyTensor.of(np.asarray(array), "file", name) for name, array in arrays.items()}


def scales(*shape, dtype=np.float32):
    return RNG.uniform(0.5, 2, shape).astype(dtype)


CASES = {
    "whole": (INT8, "a.weight_scale", scales(), None, 1),
    "whole, one entry": (FP8, "a.weight_scale", scales(1), None, 1),
    "rows": (INT8, "a.weight_scale", scales(6, dtype=np.float16), None, 1),
    "rows, two axes": (FP8, "a.weight_scale", scales(6, 1, dtype=ml_dtypes.bfloat16), None, 1),
    "groups": (INT8, "a.weight_scale", scales(6, 4), None, 1),
    "zero points": (UINT8, "a.weight_scale", scales(6, 1), RNG.integers(0, 256, (6, 1)).astype(np.uint8), 1),
    "bitsandbytes": (INT8, "a.SCB", scales(6), None, 127),
    "scale": (INT8, "a.weight.scale", scales(), None, 1),
    "scales": (INT8, "a.scales", scales(6), None, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_conventions(name):
    stored, scale_name, scale, zero, divisor = CASES[name]
    arrays = {"a.weight": stored, scale_name: scale, "a.bias": np.ones(6, np.float32)}
    if zero is not None:
        arrays["a.weight_zero_point"] = zero
    tensors, left_out = dequantize(lazy(arrays))
    assert tensors.keys() == {"a.weight", "a.bias"} and left_out == ()
    wide = scale.astype(np.float32)
    if wide.ndim == 1 and wide.size > 1:
        wide = wide[:, None]
    elif wide.shape == (6, 4):
        wide = np.repeat(wide, 2, 1)
    expected = (stored.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))) * wide / divisor
    found = tensors["a.weight"]
    assert found.dtype == f"q{stored.dtype.name}" and found.shape == stored.shape
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6)
    np.testing.assert_allclose(found.rows(2, 5), expected[2:5], rtol=1e-6)


@given(st.integers(1, 300), st.integers(1, 300))
def test_square_blocks(rows, columns):
    stored = np.ones((rows, columns), ml_dtypes.float8_e4m3fn)
    scale = np.arange(1.0, 1 + -(-rows // 128) * -(-columns // 128)).reshape(-(-rows // 128), -1)
    tensors, _ = dequantize(lazy({"w": stored, "w_scale_inv": scale.astype(np.float32)}))
    expected = np.repeat(np.repeat(scale, 128, 0), 128, 1)[:rows, :columns]
    np.testing.assert_array_equal(np.asarray(tensors["w"]), expected)
    np.testing.assert_array_equal(tensors["w"].rows(rows // 2, rows), expected[rows // 2 :])


@pytest.mark.parametrize(
    "scale",
    [scales(5), scales(6, 3), scales(2, 2, 2), scales(0), np.ones(6, np.int32), np.ones(6, ml_dtypes.float8_e4m3fn)],
    ids=range(6),
)
def test_scales_that_do_not_fit(scale):
    for stored in (INT8, FP8):
        tensors, left_out = dequantize(lazy({"w": stored, "w_scale": scale}))
        assert "w" not in tensors and "w" in left_out


def test_integers_without_scales_are_left_out():
    arrays = {"position_ids": np.arange(8), "mask": np.ones(3, bool), "packed": UINT8, "w": np.ones(2, np.float16)}
    tensors, left_out = dequantize(lazy(arrays))
    assert list(tensors) == ["w"] and left_out == ("position_ids", "mask", "packed")


def test_bytes_with_scales_but_without_zero_points_are_left_out():
    assert dequantize(lazy({"w": UINT8, "w_scale": scales(6, 1)}))[1] == ("w",)


def test_eight_bit_floating_point_without_scales_is_kept():
    tensors, left_out = dequantize(lazy({"w": FP8}))
    assert tensors["w"].dtype == "float8_e4m3fn" and left_out == ()


def test_zero_points_of_another_shape():
    arrays = {"w": INT8, "w_scale": scales(6), "w_zero_point": np.zeros(5, np.int8)}
    assert "w" in dequantize(lazy(arrays))[1]
