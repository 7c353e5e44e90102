"""Weights of short floating point, two a byte or eight a word, with scales a group.

    layer.weight_packed, weight_scale, weight_global_scale      compressed-tensors, "nvfp4-pack-quantized"
    layer.weight_packed, weight_scale                           compressed-tensors, "mxfp4-pack-quantized"
    layer.weight, weight_scale, weight_scale_2                  NVIDIA's model optimizer, NVFP4
    layer.weight, layer.scales                                  MLX, modes "mxfp4", "nvfp4", "mxfp8"
    name_blocks, name_scales                                    MXFP4 of gpt-oss (transformers, integrations/mxfp4.py)

Codes are E2M1, lowest bits first. A scale is a power of two (E8M0), or E4M3 with one more scale for the whole tensor.
"""

from collections.abc import Mapping

import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.affine import affine
from wsrl.readers.codebooks import E2M1
from wsrl.readers.derived import computed, expanded, reshaped, transposed
from wsrl.readers.number_types import number_type

MXFP4_BLOCK, NVFP4_BLOCK = 32, 16

Tensors = Mapping[str, LazyTensor]
Found = tuple[str, LazyTensor, tuple[str, ...]]  # the weight's name, the weight, names of what it is made of


def two_a_byte(name: str, tensors: Tensors, settings: Mapping) -> Found | None:
    """NVFP4 and MXFP4 of compressed-tensors and of NVIDIA's model optimizer; see packed_weights.unpack_words."""
    stored = tensors[name]
    whole = f"{name}_scale_2"
    if name.endswith("weight_packed"):
        layer = name.removesuffix("_packed")
        whole = f"{layer}_global_scale"
    elif whole in tensors:
        layer = name
    else:
        return None
    if stored.dtype != "uint8" or stored.ndim < 2:
        return None
    parts = [name, f"{layer}_scale", *([whole] if whole in tensors else [])]
    scale = tensors[parts[1]]
    outer = tensors.get(whole)
    if (outer is None) != (scale.dtype in ("uint8", "float8_e8m0fnu")) or (outer is not None and outer.size != 1):
        return None
    divided = outer is not None and whole.endswith("global_scale")
    codes = computed(expanded(stored, 4, 2 * stored.shape[-1]), _e2m1, "float4")
    return layer, _scaled(codes, scale, outer, divided), tuple(parts)


def eight_a_word(name: str, tensors: Tensors, settings: Mapping) -> Found | None:
    """MXFP4, NVFP4 and MXFP8 of MLX: words of 32 bits, scales of bytes and no biases."""
    layer = name.removesuffix("weight")
    stored, scale = tensors[name], tensors.get(f"{layer}scales")
    if layer == name or scale is None or (stored.dtype, scale.dtype) != ("uint32", "uint8"):
        return None
    if f"{layer}biases" in tensors or stored.ndim < 2 or not scale.shape[-1]:
        return None
    block = 8 * stored.shape[-1] // scale.shape[-1]
    if block == 2 * MXFP4_BLOCK:  # eight bits each
        numbers = computed(expanded(stored, 8, 4 * stored.shape[-1]), _e4m3, "float8_e4m3fn")
        return name, _scaled(numbers, scale, None, False), (name, f"{layer}scales")
    if block == NVFP4_BLOCK:
        scale = computed(scale, _e4m3, "float8_e4m3fn")
    elif block != MXFP4_BLOCK:
        return None
    codes = computed(expanded(stored, 4, 8 * stored.shape[-1]), _e2m1, "float4")
    return name, _scaled(codes, scale, None, False), (name, f"{layer}scales")


def experts(name: str, tensors: Tensors, settings: Mapping) -> Found | None:
    """MXFP4 of gpt-oss, whose model that is not quantized keeps experts as [experts, inputs, outputs]."""
    if not name.endswith("_blocks"):
        return None
    target = name.removesuffix("_blocks")
    stored, scales = tensors[name], tensors[f"{target}_scales"]
    if stored.dtype != "uint8" or scales.dtype != "uint8" or stored.shape[-1] != MXFP4_BLOCK // 2:
        return None
    if stored.shape[:-1] != scales.shape or stored.ndim < 3:
        return None
    flat = reshaped(stored, (*stored.shape[:-2], stored.shape[-2] * stored.shape[-1]))
    whole = _scaled(computed(expanded(flat, 4, 2 * flat.shape[-1]), _e2m1, "float4"), scales, None, False)
    return target, transposed(whole, (0, 2, 1)) if whole.ndim == 3 else whole, (name, f"{target}_scales")


def _scaled(codes: LazyTensor, scale: LazyTensor, outer: LazyTensor | None, divided: bool) -> LazyTensor:
    """Numbers times the scale of their block along the last axis, and one for all."""
    if scale.shape[:-1] != codes.shape[:-1] or not scale.shape[-1] or codes.shape[-1] % scale.shape[-1]:
        raise ValueError("scales do not fit")
    if scale.dtype == "uint8":
        scale = computed(scale, lambda c: np.ldexp(np.float32(1), c.astype(np.int32) - 127), "float32")
    if outer is not None:
        factor = outer

        def both(rows: np.ndarray) -> np.ndarray:
            whole = np.asarray(factor, np.float32).reshape(-1)[0]
            if divided and not whole:
                raise CheckpointError(codes.path, f"the scale of tensor {codes.name!r} is zero", "quantize it again")
            return np.asarray(rows).astype(np.float32) * (1 / whole if divided else whole)

        scale = computed(scale, both, "float32")
    return affine(codes, scale, None, codes.path, (*(1,) * (codes.ndim - 1), codes.shape[-1] // scale.shape[-1]))


def _e2m1(codes: np.ndarray) -> np.ndarray:
    return E2M1[codes]


def _e4m3(codes: np.ndarray) -> np.ndarray:
    return codes.view(number_type("float8_e4m3fn"))
