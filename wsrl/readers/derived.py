"""Lazy tensors made of others: entries in another order or shape, rows put together, packed numbers taken apart.

Each reads the rows of its source that it needs, a block at a time where those are all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
from jaxtyping import Num, UInt8

from wsrl.checkpoint import LazyTensor

AT_ONCE = 1 << 22  # entries of a source that are read at once


def transposed(tensor: LazyTensor, order: Sequence[int]) -> LazyTensor:
    """The axes in another order, as `np.transpose` has it. `order` is a permutation of the axes.

    Raises:
      ValueError: it is none.
    """
    if sorted(order) != list(range(tensor.ndim)):
        raise ValueError(f"{list(order)} is no order of {tensor.ndim} axes")
    shape = tuple(tensor.shape[axis] for axis in order)
    if not order or tuple(order) == tuple(range(tensor.ndim)):
        return tensor
    return replace(tensor, shape=shape, read_rows=partial(_transposed_rows, tensor, tuple(order)))


def _transposed_rows(tensor: LazyTensor, order: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    if order[0] == 0:
        return tensor.read_rows(start, stop).transpose(order)
    start, stop, _ = slice(start, stop).indices(tensor.shape[order[0]])
    chosen = [slice(None)] * tensor.ndim
    chosen[order[0]] = slice(start, stop)
    step = max(1, AT_ONCE * tensor.num_rows // max(tensor.size, 1))
    result = None
    for begin in range(0, tensor.num_rows, step):
        block = tensor.read_rows(begin, begin + step)[tuple(chosen)]
        if result is None:
            result = np.empty([stop - start if i == order[0] else n for i, n in enumerate(tensor.shape)], block.dtype)
        result[begin : begin + len(block)] = block
    if result is None:  # a source without rows
        result = np.empty([stop - start if i == order[0] else n for i, n in enumerate(tensor.shape)], np.float32)
    return result.transpose(order)


def reshaped(tensor: LazyTensor, shape: Sequence[int]) -> LazyTensor:
    """The same entries in the same order, in another shape.

    Raises:
      ValueError: the shape has another number of entries.
    """
    if prod(shape) != tensor.size:
        raise ValueError(f"{tensor.size} entries do not fit the shape {list(shape)}")
    if tuple(shape) == tensor.shape:
        return tensor
    return replace(tensor, shape=tuple(shape), read_rows=partial(_reshaped_rows, tensor, tuple(shape)))


def _reshaped_rows(tensor: LazyTensor, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    start, stop, _ = slice(start, stop).indices(shape[0] if shape else 1)
    inner, source = prod(shape[1:]), prod(tensor.shape[1:])
    if not source or stop <= start:
        return tensor.read_rows(0, 0).reshape(-1)[:0].reshape(max(stop - start, 0), *shape[1:])
    first, last = start * inner, stop * inner
    flat = tensor.read_rows(first // source, -(-last // source)).reshape(-1)
    offset = first // source * source
    return flat[first - offset : last - offset].reshape(stop - start, *shape[1:])


def stacked(tensors: Sequence[LazyTensor], name: str) -> LazyTensor:
    """Tensors of one shape from the second axis on, one after the other along the first.

    Raises:
      ValueError: there is none, or the shapes differ.
    """
    if not tensors or len({tensor.shape[1:] for tensor in tensors}) > 1 or not all(t.shape for t in tensors):
        raise ValueError("tensors of different shapes are not parts of one")
    shape = (sum(tensor.num_rows for tensor in tensors), *tensors[0].shape[1:])
    return replace(tensors[0], shape=shape, name=name, read_rows=partial(_stacked_rows, tuple(tensors)))


def _stacked_rows(tensors: tuple[LazyTensor, ...], start: int, stop: int) -> np.ndarray:
    parts, begin = [], 0
    start, stop, _ = slice(start, stop).indices(sum(tensor.num_rows for tensor in tensors))
    for tensor in tensors:
        low, high = max(start - begin, 0), min(stop - begin, tensor.num_rows)
        if low < high or (not parts and tensor is tensors[-1]):
            parts.append(tensor.read_rows(low, max(low, high)))
        begin += tensor.num_rows
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def computed(tensor: LazyTensor, function: Callable[[np.ndarray], np.ndarray], dtype: str) -> LazyTensor:
    """Applies a function to the entries of each row; it keeps the shape."""
    return replace(tensor, dtype=dtype, read_rows=lambda start, stop: function(tensor.read_rows(start, stop)))


def split_complex(tensor: LazyTensor) -> LazyTensor:
    """Real and imaginary parts of complex numbers, along a last axis of two."""
    part = np.dtype("float64" if tensor.dtype == "complex128" else "float32")

    def rows(start: int, stop: int) -> np.ndarray:
        values = np.asarray(tensor.read_rows(start, stop))
        return np.stack([np.real(values), np.imag(values)], axis=-1)

    split = replace(tensor, shape=(*tensor.shape, 2), dtype=part.name, read_rows=rows)
    return split if tensor.ndim else replace(split, read_rows=lambda start, stop: rows(0, 1)[0, start:stop])


def unpacked(
    packed: UInt8[np.ndarray, " bytes"],
    bits: int,
    shape: tuple[int, ...],
    decode: Callable[[UInt8[np.ndarray, " n"]], Num[np.ndarray, " n"]],
    highest_first: bool = False,
) -> Callable[[int, int], np.ndarray]:
    """Returns what reads rows of a tensor whose entries take 1 to 8 bits each.

    Args:
      packed: all entries in C order without gaps.
      bits: of an entry.
      shape: of the tensor.
      decode: codes -> numbers.
      highest_first: whether an entry begins with the highest bits of a byte, rather than the lowest.
    """
    return partial(_unpacked_rows, packed, bits, shape, decode, "big" if highest_first else "little")


def _unpacked_rows(packed, bits, shape, decode, order, start: int, stop: int) -> np.ndarray:
    start, stop, _ = slice(start, stop).indices(shape[0] if shape else 1)
    inner, per_byte = prod(shape[1:]), 8 // bits
    first, last = start * inner, max(start, stop) * inner
    if 8 % bits or order == "big":
        begin = first * bits // 8
        single = np.unpackbits(packed[begin : -(-last * bits // 8)], bitorder=order)
        single = single[first * bits - begin * 8 :][: (last - first) * bits].reshape(-1, bits)
        weights = 1 << np.arange(bits, dtype=np.uint8)
        codes = single @ (weights[::-1] if order == "big" else weights)
    else:
        begin = first // per_byte
        stretch = packed[begin : -(-last // per_byte)]
        codes = np.stack([stretch >> bits * i & (1 << bits) - 1 for i in range(per_byte)], axis=-1).reshape(-1)
        codes = codes[first - begin * per_byte : last - begin * per_byte]
    return decode(codes).reshape(max(start, stop) - start, *shape[1:])


def expanded(packed: LazyTensor, bits: int, length: int, order: Sequence[int] = ()) -> LazyTensor:
    """Takes integers apart that are packed along the last axis, the lowest bits first.

    Args:
      packed: integers of 8 to 64 bits, of one axis at least.
      bits: of a code; a divisor of theirs.
      length: of the last axis of the result; codes beyond it are dropped.
      order: place of each code within a word; () for ascending.

    Raises:
      ValueError: there are fewer codes than `length`.
    """
    word = np.dtype(packed.dtype.removeprefix("u").replace("int", "uint"))
    per_word = word.itemsize * 8 // bits
    if packed.shape[-1] * per_word < length:
        raise ValueError(f"{packed.shape[-1]} words hold no {length} codes of {bits} bits")
    places = order or range(per_word)

    def rows(start: int, stop: int) -> np.ndarray:
        words = np.asarray(packed.read_rows(start, stop)).view(word)
        codes = np.stack([words >> word.type(bits * place) for place in places], axis=-1) & word.type((1 << bits) - 1)
        return codes.astype(np.uint8).reshape(*words.shape[:-1], words.shape[-1] * per_word)[..., :length]

    return replace(packed, shape=(*packed.shape[:-1], length), dtype=f"uint{bits}", read_rows=rows)
