"""Turns eight-bit integers and floating point that come with scales into floating-point tensors.

The conventions, for a tensor `layer.weight`, value = (stored - zero point) * scale:

    layer.weight_scale, layer.weight_zero_point     compressed-tensors and FP8 checkpoints: whole, rows, or groups
    layer.weight_scale_inv                          DeepSeek-V3's FP8: blocks of 128 x 128; multiplies despite its name
    layer.SCB                                       bitsandbytes LLM.int8 (Dettmers et al. 2022): rows, over 127
    layer.weight.scale, layer.weight.zero_point, and `scales`; layer.scales, layer.zero_point

Several numbers packed into one byte or word stay unread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wsrl.checkpoint import LazyTensor
from wsrl.readers.affine import affine
from wsrl.readers.derived import computed, reshaped

NOT_FLOATING = ("int", "uint", "bool", "complex", "void")
STORED = ("int8", "uint8", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
SCALES = ("float64", "float32", "float16", "bfloat16", "float8_e8m0fnu")
BLOCK = 128
# Scale, zero point and what the scale is divided by; {name} is the tensor's, {layer} the part up to its last dot.
CONVENTIONS = (
    ("{name}_scale", "{name}_zero_point", 1.0),
    ("{name}_scale_inv", "{name}_zero_point", 1.0),
    ("{layer}SCB", "{layer}zero_point", 127.0),
    ("{name}.scale", "{name}.zero_point", 1.0),
    ("{name}.scales", "{name}.zero_point", 1.0),
    ("{layer}scales", "{layer}zero_point", 1.0),
)


def dequantize(tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """Keeps the floating-point tensors; those that come with scales are multiplied by them when they are read.

    Args:
      tensors: of any numeric type.

    Returns:
      The floating-point tensors, without scales and zero points that were used, and the names of the others. Eight-bit
      tensors whose scales do not fit are among those.
    """
    result: dict[str, LazyTensor] = {}
    left_out: list[str] = []
    used: set[str] = set()
    for name, tensor in tensors.items():
        scales = _scales(name, tensors) if tensor.dtype in STORED and tensor.ndim else None
        scaled = scales and _scaled(tensor, scales)
        if scales and scaled:
            result[name] = scaled
            used |= {scales.scale.name, *([scales.zero.name] if scales.zero else [])}
        elif scales or tensor.dtype.startswith(NOT_FLOATING):
            left_out.append(name)
        else:
            result[name] = tensor
    kept = {name: tensor for name, tensor in result.items() if name not in used}
    return kept, tuple(name for name in left_out if name not in used)


@dataclass(frozen=True)
class _Scales:
    """What a stored tensor is multiplied by."""

    scale: LazyTensor
    zero: LazyTensor | None
    divisor: float


def _scales(name: str, tensors: Mapping[str, LazyTensor]) -> _Scales | None:
    layer = name[: name.rfind(".") + 1]
    for scale_name, zero_name, divisor in CONVENTIONS:
        scale_name, zero_name = scale_name.format(name=name, layer=layer), zero_name.format(name=name, layer=layer)
        if scale_name in tensors and scale_name != name:
            zero = tensors.get(zero_name)
            # Names may have lost a prefix since the file was read.
            named = zero and replace(zero, name=zero_name)
            return _Scales(replace(tensors[scale_name], name=scale_name), named, divisor)
    return None


def _scaled(stored: LazyTensor, scales: _Scales) -> LazyTensor | None:
    """The product as a lazy tensor; its dtype is `q` and what is stored. None if the scales do not fit."""
    blocks = _blocks(stored.shape, scales.scale.shape, scales.scale.name.endswith("_inv"))
    fits = scales.zero.shape == scales.scale.shape if scales.zero else stored.dtype != "uint8"
    if blocks is None or not fits or scales.scale.dtype not in SCALES:
        return None
    scale, zero = _wide(scales.scale, stored.ndim), scales.zero and _wide(scales.zero, stored.ndim)
    if scales.divisor != 1:
        scale = computed(scale, lambda rows: np.asarray(rows, np.float32) / scales.divisor, "float32")
    return affine(stored, scale, zero, stored.path, blocks)


def _wide(factors: LazyTensor, ndim: int) -> LazyTensor:
    """Factors with an axis for each of the tensor's; a vector lies along the first."""
    if factors.size == 1:
        return reshaped(factors, (1,) * ndim)
    return reshaped(factors, factors.shape + (1,) * (ndim - factors.ndim))


def _blocks(shape: tuple[int, ...], scale: tuple[int, ...], square: bool) -> tuple[int, ...] | None:
    """Returns how many entries along each axis share a scale, or None if the shapes do not fit."""
    if all(n == 1 for n in scale):
        return tuple(max(n, 1) for n in shape)
    if len(scale) == 1:
        scale = (*scale, *(1 for _ in shape[1:]))
    if len(scale) != len(shape) or 0 in scale or 0 in shape:
        return None
    if square and all(n == -(-size // BLOCK) for n, size in zip(scale, shape, strict=True)):
        return tuple(BLOCK for _ in shape)
    if any(size % n for n, size in zip(scale, shape, strict=True)):
        return None
    return tuple(size // n for n, size in zip(scale, shape, strict=True))
