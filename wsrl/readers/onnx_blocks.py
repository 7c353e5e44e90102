"""Weights of ONNX that are packed and have a scale a block: MatMulNBits and its like.

The operators: `docs/ContribOperators.md` in https://github.com/microsoft/onnxruntime, domain com.microsoft.
"""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import LazyTensor
from wsrl.readers.affine import affine
from wsrl.readers.codebooks import FP4, NF4
from wsrl.readers.derived import computed, expanded, reshaped, transposed
from wsrl.readers.onnx_constants import Constant

Constants = Mapping[int, Constant | None]
Build = Callable[[Constants, Mapping[str, object], Path], LazyTensor | None]


def _matmul_bits(constants: Constants, attributes: Mapping[str, object], path: Path) -> LazyTensor | None:
    """[outputs, blocks, bytes] with scales [outputs * blocks] -> [inputs, outputs]."""
    stored, scales, zeros, order = (constants[i] for i in (1, 2, 3, 4))
    bits, block, inputs, outputs = _positive(attributes, {"bits": 4, "block_size": 0, "K": 0, "N": 0})
    if stored is None or scales is None or order is not None or bits not in (2, 4, 8):
        return None
    blocks = -(-inputs // block)
    codes = expanded(reshaped(stored.tensor, (outputs, stored.tensor.size // outputs)), bits, blocks * block)
    zero = np.full((1, 1), 1 << bits - 1, np.float32)
    if zeros is not None and zeros.tensor.dtype == "uint8":
        packed = reshaped(zeros.tensor, (outputs, zeros.tensor.size // outputs))
        zero = np.asarray(expanded(packed, bits, blocks))
    elif zeros is not None:
        zero = np.asarray(zeros.tensor).reshape(outputs, blocks)
    scale = np.asarray(scales.tensor).reshape(outputs, blocks)
    return transposed(affine(_narrowed(codes, inputs), scale, zero, path, (1, block)), (1, 0))


def _positive(attributes: Mapping[str, object], defaults: Mapping[str, int]) -> list[int]:
    """Settings that are positive; ValueError if one is not."""
    values = [attributes.get(key, default) for key, default in defaults.items()]
    whole = [value for value in values if isinstance(value, int) and value > 0]
    if len(whole) < len(values):
        raise ValueError("a size is not positive")
    return whole


def _narrowed(tensor: LazyTensor, length: int) -> LazyTensor:
    """The first entries of the last axis."""
    read = tensor.read_rows
    shape = (*tensor.shape[:-1], length)
    return LazyTensor(shape, tensor.dtype, lambda a, b: read(a, b)[..., :length], tensor.path, tensor.name)


def _gather_blocks(constants: Constants, attributes: Mapping[str, object], path: Path) -> LazyTensor | None:
    """A table of rows, with a scale for each block of a row."""
    stored, scales, zeros = (constants[i] for i in (0, 2, 3))
    bits, block = _positive(attributes, {"bits": 4, "block_size": 128})
    axis = attributes.get("quantize_axis", 1)
    if stored is None or scales is None or bits not in (2, 4, 8):
        return None
    codes, ndim = stored.tensor, stored.tensor.ndim
    if not isinstance(axis, int) or ndim < 2 or axis % ndim != ndim - 1:
        return None
    zero = np.zeros((1,) * ndim, np.float32)
    if codes.dtype == "uint8" and bits < 8:
        codes = expanded(codes, bits, codes.shape[-1] * (8 // bits))
        zero += 1 << bits - 1
    if zeros is not None:
        packed = zeros.tensor.dtype == "uint8" and bits < 8
        zero = np.asarray(expanded(zeros.tensor, bits, scales.tensor.shape[-1]) if packed else zeros.tensor)
    return affine(codes, np.asarray(scales.tensor), zero, path, (*(1,) * (ndim - 1), block))


def _matmul_bnb(constants: Constants, attributes: Mapping[str, object], path: Path) -> LazyTensor | None:
    """bitsandbytes' codes, two a byte, the first in the high bits, with a scale for each block of them."""
    stored, scales = constants[1], constants[2]
    inputs, outputs, block = _positive(attributes, {"K": 0, "N": 0, "block_size": 0})
    kind = attributes.get("quant_type")
    if stored is None or scales is None or kind not in (0, 1) or inputs * outputs % block:
        return None
    codebook = NF4 if kind else FP4
    packed = reshaped(stored.tensor, (prod(stored.tensor.shape), 1))
    codes = reshaped(expanded(packed, 4, 2, (1, 0)), (inputs * outputs // block, block))
    values = computed(codes, lambda rows: codebook[rows], "qfloat4")
    scaled = affine(values, np.asarray(scales.tensor).reshape(-1, 1), None, path)
    return transposed(reshaped(scaled, (outputs, inputs)), (1, 0))


# Operator -> what it stands for, the place of its constant, the places of factors, and what makes the numbers.
BLOCK_OPERATORS: Mapping[str, tuple[str, int, tuple[int, ...], Build]] = {
    "MatMulNBits": ("MatMul", 1, (2, 3, 4), _matmul_bits),
    "MatMulBnb4": ("MatMul", 1, (2,), _matmul_bnb),
    "GatherBlockQuantized": ("Gather", 0, (2, 3), _gather_blocks),
}
