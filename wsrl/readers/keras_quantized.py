"""Quantized layers of Keras 3: kernels and embeddings of integers become what they stand for.

From keras/src/layers/core/dense.py and keras/src/quantizers in https://github.com/keras-team/keras:

    int8    value = code / scale, a scale for each output or row
    int4    value = (code - zero) scale, two codes a byte along the last axis, the first in the low bits; `g_idx` is the
            group of each index of the axis that is summed over, and scale and zero point have a row or column a group
    float8  a kernel of float32, and scales and histories of what was seen in training, which are no weights
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wsrl.checkpoint import LazyTensor
from wsrl.readers.affine import affine
from wsrl.readers.derived import computed, expanded, reshaped

STEMS = ("kernel", "embeddings")
FLOAT8 = 6  # numbers and histories of float8 behind the weights of a layer
ENDS = {1: ("_scale",), 3: ("_scale", "_zero", "g_idx")}


def quantized_names(stem: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> list[str] | None:
    """Returns the names of a quantized layer's numbered weights.

    Args:
      stem: how its first weight is called.
      shapes, dtypes: of its weights in order.

    Returns:
      A name a weight, "" for what is no weight; None if the layer is not quantized in a way that is known.
    """
    if dtypes[:1] == ["int8"]:
        for bias in ([], ["bias"]) if stem == "kernel" else ([],):
            if ends := ENDS.get(len(shapes) - 1 - len(bias)):
                return [stem, *bias, *(end if end == "g_idx" else stem + end for end in ends)]
    last = shapes[-FLOAT8:]
    numbers = all(not shape for shape in last[::2]) and all(len(shape) == 1 for shape in last[1::2])
    if len(shapes) in (FLOAT8 + 1, FLOAT8 + 2) and numbers:
        return [stem, *["bias"] * (len(shapes) - FLOAT8 - 1), *[""] * FLOAT8]
    return None


def dequantized(tensors: Mapping[str, LazyTensor], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, LazyTensor]:
    """Replaces codes by the values that they stand for; those that are not understood stay.

    Args:
      tensors: by name, `layer/kernel` and so on.
      configs: of the layers by name.
    """
    result = dict(tensors)
    for name, tensor in tensors.items():
        layer, _, last = name.rpartition("/")
        if last not in STEMS or tensor.dtype != "int8" or f"{name}_scale" not in tensors:
            continue
        scale, zero, group = (tensors.get(n) for n in (f"{name}_scale", f"{name}_zero", f"{layer}/g_idx"))
        mode = _mode(configs.get(layer.rpartition("/")[2]))
        if scale is not None and zero is not None and group is not None and tensor.ndim == 2:
            values = _int4(tensor, scale, zero, group, last)
        elif scale is not None and zero is None and mode in ("int8", ""):
            values = _int8(replace(tensor, name=name), scale)
        else:
            values = None
        if values is not None:
            result[name] = values
            for used in (f"{name}_scale", f"{name}_zero", f"{layer}/g_idx"):
                result.pop(used, None)
    return result


def _mode(config: Mapping[str, Any] | None) -> str:
    """How a layer's configuration says that it is quantized; "" where it does not."""
    match config:
        case {"dtype": {"config": {"mode": str(mode)}}}:
            return mode
    return ""


def _int8(codes: LazyTensor, scale: LazyTensor) -> LazyTensor | None:
    inverse = computed(scale, lambda rows: 1 / np.asarray(rows, np.float32), "float32")
    shape = scale.shape[max(scale.ndim - codes.ndim, 0) :]
    if scale.ndim == 1 and codes.name.endswith("embeddings"):  # a scale a row
        shape = (*shape, *(1,) * (codes.ndim - 1))
    padded = (1,) * (codes.ndim - len(shape)) + shape
    if any(n not in (1, size) for n, size in zip(padded, codes.shape, strict=True)):
        return None
    return affine(codes, reshaped(inverse, padded), None, codes.path)


def _int4(packed: LazyTensor, scale: LazyTensor, zero: LazyTensor, group: LazyTensor, stem: str) -> LazyTensor | None:
    by_rows = stem == "kernel"  # groups are of the first axis
    inputs = packed.shape[0] if by_rows else group.size
    outputs = scale.shape[-1] if by_rows else inputs
    groups = scale.shape[0 if by_rows else -1]
    places = np.asarray(group).reshape(-1).astype(np.int64)
    fits = scale.ndim == 2 and zero.shape == scale.shape and places.shape == (inputs,)
    if not fits or not 0 <= places.min(initial=0) <= places.max(initial=0) < groups:
        return None
    if packed.shape[1] != -(-outputs // 2) or (not by_rows and scale.shape[0] != packed.shape[0]):
        return None
    codes = expanded(packed, 4, outputs)

    def rows(start: int, stop: int) -> np.ndarray:
        values = (codes.read_rows(start, stop) ^ 8).astype(np.float32) - 8
        at = (places[start : start + len(values)], slice(None)) if by_rows else (slice(start, stop), places)
        return (values - np.asarray(zero)[at]) * np.asarray(scale)[at]

    return replace(codes, dtype="qint4", read_rows=rows)
