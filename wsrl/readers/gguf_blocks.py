"""Dequantises the block formats of GGUF: runs of 32 or 256 entries that share scales.

The layouts are those of `ggml/src/ggml-common.h` and `ggml-quants.c` in https://github.com/ggml-org/ggml. A block is a
structured NumPy type; quantised values are bit fields of its bytes, unpacked by one function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from wsrl.readers.mapped import Bytes

Blocks = Shaped[np.ndarray, " blocks"]  # of a structured type
Values = Float32[np.ndarray, "blocks ..."]  # the entries of a block in order, once flattened

AT_ONCE = 1 << 18  # entries; the values in between take some ten times the memory of the result


@dataclass(frozen=True)
class BlockFormat:
    """A way to store `entries` numbers in one block.

    Attributes:
      name: as dtypes of tensors tell it, e.g. `q4_k`.
      entries: numbers a block holds.
      layout: of a block.
      decode: blocks -> their numbers.
    """

    name: str
    entries: int
    layout: np.dtype
    decode: Callable[[Blocks], Values]


def dequantize(data: Bytes, layout: BlockFormat) -> Float32[np.ndarray, " entries"]:
    """Turns whole blocks into numbers, a stretch at a time so that little more than the result is in memory.

    Args:
      data: bytes of whole blocks.
      layout: their format.
    """
    blocks = data.view(layout.layout)
    result = np.empty((len(blocks), layout.entries), np.float32)
    step = max(1, AT_ONCE // layout.entries)
    with np.errstate(invalid="ignore", over="ignore"):  # scales may be NaN or Inf: whoever reads the tensor tells
        for start in range(0, len(blocks), step):
            part = slice(start, start + step)
            result[part] = layout.decode(blocks[part]).reshape(-1, layout.entries)
    return result.reshape(-1)


def _bits(packed: UInt8[np.ndarray, "blocks bytes"], width: int, run: int) -> UInt8[np.ndarray, "blocks fields"]:
    """Unpacks fields of `width` bits: the lowest of `run` bytes in order, then the next lowest of the same bytes."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    fields = packed.reshape(len(packed), -1, 1, run) >> shifts & (1 << width) - 1
    return fields.reshape(len(packed), -1)


def _float(values: Shaped[np.ndarray, " blocks"]) -> Float32[np.ndarray, "blocks 1"]:
    return values.astype(np.float32)[:, None]


def _signed(fields: UInt8[np.ndarray, "..."], offset: int) -> Float32[np.ndarray, "..."]:
    return fields.astype(np.float32) - np.float32(offset)


def _q4_0(b: Blocks) -> Values:
    return _float(b["d"]) * _signed(_bits(b["q"], 4, 16), 8)


def _q4_1(b: Blocks) -> Values:
    return _float(b["d"]) * _bits(b["q"], 4, 16) + _float(b["m"])


def _five_bits(b: Blocks) -> UInt8[np.ndarray, "blocks 32"]:
    high = np.unpackbits(b["h"], axis=1, bitorder="little")
    return _bits(b["q"], 4, 16) | high << 4


def _q5_0(b: Blocks) -> Values:
    return _float(b["d"]) * _signed(_five_bits(b), 16)


def _q5_1(b: Blocks) -> Values:
    return _float(b["d"]) * _five_bits(b) + _float(b["m"])


def _q8(b: Blocks) -> Values:
    return _float(b["d"]) * b["q"]


def _in_groups(values: np.ndarray, groups: int) -> Float32[np.ndarray, "blocks groups entries"]:
    return values.astype(np.float32).reshape(len(values), groups, -1)


def _q2_k(b: Blocks) -> Values:
    scale, least = (_float(b[f])[..., None] * _in_groups(s, 16) for f, s in (("d", b["s"] & 15), ("m", b["s"] >> 4)))
    return scale * _in_groups(_bits(b["q"], 2, 32), 16) - least


def _q3_k(b: Blocks) -> Values:
    scales = _bits(b["s"][:, :8], 4, 8) | _bits(b["s"][:, 8:], 2, 4) << 4
    high = _bits(b["h"], 1, 32)
    values = _signed(_bits(b["q"], 2, 32) | high << 2, 4)
    return _float(b["d"])[..., None] * _in_groups(_signed(scales, 32), 16) * _in_groups(values, 16)


def _scales_of_six_bits(packed: UInt8[np.ndarray, "blocks 12"]) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minima of six bits each; the upper two bits of the last four lie in the first bytes."""
    scales, minima, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    upper_scales, upper_minima = rest & 15 | scales >> 6 << 4, rest >> 4 | minima >> 6 << 4
    return np.concatenate([scales & 63, upper_scales], 1), np.concatenate([minima & 63, upper_minima], 1)


def _scaled_with_minima(b: Blocks, values: UInt8[np.ndarray, "blocks 256"]) -> Values:
    scales, minima = _scales_of_six_bits(b["s"])
    scale, least = _float(b["d"])[..., None] * _in_groups(scales, 8), _float(b["m"])[..., None] * _in_groups(minima, 8)
    return scale * _in_groups(values, 8) - least


def _q4_k(b: Blocks) -> Values:
    return _scaled_with_minima(b, _bits(b["q"], 4, 32))


def _q5_k(b: Blocks) -> Values:
    return _scaled_with_minima(b, _bits(b["q"], 4, 32) | _bits(b["h"], 1, 32) << 4)


def _q6_k(b: Blocks) -> Values:
    values = _signed(_bits(b["q"], 4, 64) | _bits(b["h"], 2, 32) << 4, 32)
    return _float(b["d"])[..., None] * _in_groups(b["s"], 16) * _in_groups(values, 16)


# The levels of IQ4_NL and IQ4_XS, and those of four-bit floating point (1 bit exponent offset folded into the scale).
UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
FLOAT4 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)


def _iq4_nl(b: Blocks) -> Values:
    return _float(b["d"]) * UNEVEN[_bits(b["q"], 4, 16)]


def _iq4_xs(b: Blocks) -> Values:
    high = b["h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = _signed(_bits(b["s"], 4, 1) | high.astype(np.uint8) << 4, 32)
    return _float(b["d"])[..., None] * _in_groups(scales, 8) * _in_groups(UNEVEN[_bits(b["q"], 4, 16)], 8)


def _mxfp4(b: Blocks) -> Values:
    return _float(b["d"].view(ml_dtypes.float8_e8m0fnu)) * FLOAT4[_bits(b["q"], 4, 16)]


def _format(name: str, entries: int, decode: Callable[[Blocks], Values], *fields: tuple) -> BlockFormat:
    return BlockFormat(name, entries, np.dtype(list(fields)), decode)


HALF, SCALE, LEAST = "<f2", ("d", "<f2"), ("m", "<f2")
FORMATS = {  # by ggml's number of the type
    2: _format("q4_0", 32, _q4_0, SCALE, ("q", "u1", 16)),
    3: _format("q4_1", 32, _q4_1, SCALE, LEAST, ("q", "u1", 16)),
    6: _format("q5_0", 32, _q5_0, SCALE, ("h", "u1", 4), ("q", "u1", 16)),
    7: _format("q5_1", 32, _q5_1, SCALE, LEAST, ("h", "u1", 4), ("q", "u1", 16)),
    8: _format("q8_0", 32, _q8, SCALE, ("q", "i1", 32)),
    10: _format("q2_k", 256, _q2_k, ("s", "u1", 16), ("q", "u1", 64), SCALE, LEAST),
    11: _format("q3_k", 256, _q3_k, ("h", "u1", 32), ("q", "u1", 64), ("s", "u1", 12), SCALE),
    12: _format("q4_k", 256, _q4_k, SCALE, LEAST, ("s", "u1", 12), ("q", "u1", 128)),
    13: _format("q5_k", 256, _q5_k, SCALE, LEAST, ("s", "u1", 12), ("h", "u1", 32), ("q", "u1", 128)),
    14: _format("q6_k", 256, _q6_k, ("q", "u1", 128), ("h", "u1", 64), ("s", "i1", 16), SCALE),
    15: _format("q8_k", 256, _q8, ("d", "<f4"), ("q", "i1", 256), ("sums", "<i2", 16)),
    20: _format("iq4_nl", 32, _iq4_nl, SCALE, ("q", "u1", 16)),
    23: _format("iq4_xs", 256, _iq4_xs, SCALE, ("h", "<u2"), ("s", "u1", 4), ("q", "u1", 128)),
    39: _format("mxfp4", 32, _mxfp4, ("d", "u1"), ("q", "u1", 16)),
}
