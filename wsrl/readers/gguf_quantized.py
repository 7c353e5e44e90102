"""Quantized tensors of GGUF: rows of blocks of 32 to 256 entries that share scales.

The library `gguf` (https://github.com/ggml-org/llama.cpp, `gguf-py`) knows the block formats and decodes them in NumPy.
It gets whole blocks whose bytes lie in the file, which the caller has checked.
"""

import functools
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.readers.mapped import Bytes

AT_ONCE = 1 << 18  # entries; the values in between take some ten times the memory of the result


@dataclass(frozen=True)
class BlockFormat:
    """A block format that the library decodes.

    Attributes:
      type: the library's `GGMLQuantizationType`.
      entries: numbers that a block holds.
      bytes: of a block.
    """

    type: Any
    entries: int
    bytes: int

    @property
    def name(self) -> str:
        """As dtypes of tensors name it, e.g. `q4_k`."""
        return self.type.name.lower()


def block_format(number: int, path: Path) -> BlockFormat | None:
    """Looks up a quantized type.

    Args:
      number: of the type in ggml.
      path: for messages.

    Returns:
      None for a type that the library does not know or does not decode.

    Raises:
      CheckpointError: the library is not installed.
    """
    try:
        return _known_format(number)
    except InputError as error:
        reason = f"holds quantized tensors, which need the package {error.file}"
        raise CheckpointError(path, reason, error.fix) from error


@functools.cache
def _known_format(number: int) -> BlockFormat | None:
    gguf = require("gguf", "gguf")
    try:
        kind = gguf.GGMLQuantizationType(number)
        found = BlockFormat(kind, *gguf.GGML_QUANT_SIZES[kind])
        gguf.quants.dequantize(np.zeros((1, found.bytes), np.uint8), kind)  # the only way to ask whether it can
    except (ValueError, KeyError, NotImplementedError):
        return None
    return found


def dequantize(data: Bytes, layout: BlockFormat) -> Float32[np.ndarray, "entries"]:
    """Decodes whole blocks, a stretch at a time so that little more than the result is in memory.

    Args:
      data: bytes of whole blocks.
      layout: their format.
    """
    decode = require("gguf.quants", "gguf").dequantize
    blocks = data.reshape(-1, layout.bytes)
    result = np.empty((len(blocks), layout.entries), np.float32)
    step = max(1, AT_ONCE // layout.entries)
    with np.errstate(invalid="ignore", over="ignore"):  # scales may be NaN or Inf, which LazyTensor.rows refuses
        for start in range(0, len(blocks), step):
            part = slice(start, start + step)
            result[part] = decode(blocks[part], layout.type)
    return result.reshape(-1)


def quantized_tensor(data: Bytes, layout: BlockFormat, shape: tuple[int, ...], path: Path, name: str) -> LazyTensor:
    """A tensor whose rows are decoded when they are read.

    Args:
      data: its bytes, as many whole blocks as the shape takes.
      layout: of its blocks.
      shape: in NumPy's order; the last axis holds whole blocks.
      path, name: for messages.
    """
    row = prod(shape[1:])

    def rows(start: int, stop: int) -> np.ndarray:
        start, stop, _ = slice(start, stop).indices(shape[0] if shape else 1)
        first, last = start * row // layout.entries, -(-stop * row // layout.entries)
        values = dequantize(data[first * layout.bytes : last * layout.bytes], layout)
        skipped = start * row - first * layout.entries  # a tensor of one axis has rows within blocks
        return values[skipped : skipped + (stop - start) * row].reshape(stop - start, *shape[1:])

    return LazyTensor(shape, layout.name, rows, str(path), name)
