"""Convolutions and pooling over any number of axes.

Values have their channels on axis 1, as ONNX has them, but lie in memory with their channels last: what is returned is
a transposed view of such an array, and what passes values on entry by entry keeps that order. So each window is a
product of contiguous rows, and graphs whose maps have their channels last cost no copies.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
from jaxtyping import Float32
from numpy.lib.stride_tricks import as_strided

from wsrl.forward.operators.call import Call, Operator

BLOCK = 2**20  # entries of the windows that are multiplied at a time
MOST_TAPS = 2**14  # places of a kernel that are gone through one by one
SMALL_BLOCK = 2**16  # of what stays in cache where each channel has a kernel of its own


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def _channels_first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


class _Windows:
    """Where the windows of an operator lie."""

    def __init__(self, call: Call, size: Sequence[int], kernel: Sequence[int]):
        """See the class.

        Args:
          call: has strides, dilations, padding.
          size: of the maps that are read.
          kernel: of the windows.
        """
        count = len(kernel)
        if len(size) != count:
            raise ValueError(f"windows of {count} axes on maps of {len(size)}")
        self.kernel = tuple(kernel)
        self.strides = call.integers("strides") or (1,) * count
        self.dilations = call.integers("dilations") or (1,) * count
        self.spans = [d * (k - 1) + 1 for d, k in zip(self.dilations, kernel, strict=True)]
        pads, auto = call.integers("pads") or (0,) * 2 * count, call.text("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            missing = [
                max((-(-n // s) - 1) * s + span - n, 0)
                for n, s, span in zip(size, self.strides, self.spans, strict=True)
            ]
            less = [n // 2 for n in missing]
            more = [n - half for n, half in zip(missing, less, strict=True)]
            pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
        elif auto == "VALID":
            pads = (0,) * 2 * count
        self.before, self.after = pads[:count], list(pads[count:])
        if min(*self.strides, *self.dilations, *kernel) < 1 or min(pads) < 0:
            raise ValueError("windows without size")
        self.out, self.told = [], tuple(self.after)
        for i, (n, s, span) in enumerate(zip(size, self.strides, self.spans, strict=True)):
            room = n + pads[i] + self.after[i] - span
            steps = room // s
            if call.integer("ceil_mode", 0) and room % s and (steps + 1) * s < n + pads[i]:
                steps += 1  # a window that ends beyond the padding, but begins before it
                self.after[i] += s - room % s
            self.out.append(steps + 1)
        if min(self.out) < 1:
            raise ValueError("maps are smaller than windows")

    def padded(self, x: np.ndarray, value: float, call: Call) -> np.ndarray:
        """Pads [batch, ..., channels]."""
        if not any(self.before) and not any(self.after):
            return x
        size = [n + a + b for n, a, b in zip(x.shape[1:-1], self.before, self.after, strict=True)]
        call.cost.claim((len(x), *size, x.shape[-1]))
        result = np.full((len(x), *size, x.shape[-1]), value, x.dtype)
        inner = tuple(slice(a, a + n) for a, n in zip(self.before, x.shape[1:-1], strict=True))
        result[:, *inner] = x
        return result

    def view(self, x: np.ndarray) -> np.ndarray:
        """Windows of padded maps, without a copy: [batch, *out, *kernel, channels]."""
        step = x.strides[1:-1]
        apart = [n * s for n, s in zip(step, self.strides, strict=True)]
        within = [n * d for n, d in zip(step, self.dilations, strict=True)]
        shape = (len(x), *self.out, *self.kernel, x.shape[-1])
        return as_strided(x, shape, (x.strides[0], *apart, *within, x.strides[-1]), writeable=False)

    def taps(self, x: np.ndarray) -> list[np.ndarray]:
        """What each place of the kernel reads of padded maps: views [batch, *out, channels]."""
        if prod(self.kernel) > MOST_TAPS:
            raise ValueError(f"windows of {' x '.join(map(str, self.kernel))} are too large")
        found = []
        for place in np.ndindex(*self.kernel):
            starts = [p * d for p, d in zip(place, self.dilations, strict=True)]
            slices = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, self.out, self.strides, strict=True)]
            found.append(x[:, *slices])
        return found


def _bands(count: int, rows: int, entries_a_row: int, block: int) -> list[tuple[slice, slice]]:
    """Images and rows of maps that are worked on at a time."""
    if rows * entries_a_row >= block:
        high = max(1, block // entries_a_row)
        return [
            (slice(i, i + 1), slice(start, min(start + high, rows)))
            for i in range(count)
            for start in range(0, rows, high)
        ]
    many = max(1, block // max(rows * entries_a_row, 1))
    return [(slice(start, start + many), slice(0, rows)) for start in range(0, count, many)]


def _conv(call: Call) -> np.ndarray:
    weight, group = call[1], call.integer("group", 1)
    x = _channels_last(call[0])
    windows = _Windows(call, x.shape[1:-1], weight.shape[2:])
    units, fan_in = weight.shape[:2]
    if x.shape[-1] != fan_in * group or units % group:
        raise ValueError(f"{x.shape[-1]} channels for a kernel of {fan_in} in {group} groups")
    positions = len(x) * prod(windows.out)
    call.cost.claim((positions, units))
    call.cost.spend(positions * weight.size)
    padded = windows.padded(x, 0.0, call)
    result = np.empty((len(x), *windows.out, units), np.float32)
    if fan_in == 1 and group > 1:
        _depthwise(windows, padded, weight, result)
    else:
        _products(windows, padded, weight, group, result)
    bias = call.get(2)
    if bias is not None:
        result += bias
    return _channels_first(result)


def _products(windows: _Windows, x: np.ndarray, weight: np.ndarray, group: int, result: np.ndarray) -> None:
    """One product of windows and kernel for each group of channels."""
    units, fan_in = weight.shape[:2]
    own, taps = units // group, prod(windows.kernel)
    kernel = np.moveaxis(weight.reshape(group, own, fan_in, taps), (3, 2, 1), (1, 2, 3)).reshape(group, -1, own)
    view = windows.view(x)
    entries = prod(windows.out[1:]) * taps * x.shape[-1]
    for images, rows in _bands(len(x), windows.out[0], entries, BLOCK):
        part = view[images, rows]
        for g in range(group):
            inputs, outputs = slice(g * fan_in, (g + 1) * fan_in), slice(g * own, (g + 1) * own)
            columns = np.ascontiguousarray(part[..., inputs]).reshape(-1, taps * fan_in)
            found = columns @ kernel[g]
            result[images, rows, ..., outputs] = found.reshape(*part.shape[: 1 + len(windows.out)], own)


def _depthwise(windows: _Windows, x: np.ndarray, weight: np.ndarray, result: np.ndarray) -> None:
    """Each channel has kernels of its own: a sum over the places of the kernel."""
    times = len(weight) // x.shape[-1]
    if times > 1:
        x = np.repeat(x, times, axis=-1)
    kernel = np.ascontiguousarray(weight.reshape(len(weight), -1).T)
    taps = windows.taps(x)
    entries = prod(result.shape[2:])
    for images, rows in _bands(len(x), windows.out[0], entries, SMALL_BLOCK):
        total = result[images, rows]
        np.multiply(taps[0][images, rows], kernel[0], out=total)
        product = np.empty_like(total)
        for tap, factor in zip(taps[1:], kernel[1:], strict=True):
            np.multiply(tap[images, rows], factor, out=product)
            total += product


def _conv_transpose(call: Call) -> np.ndarray:
    """Spreads each entry over the window that a convolution would have read it from."""
    weight, group = call[1], call.integer("group", 1)
    x = _channels_last(call[0])
    kernel, count = weight.shape[2:], weight.ndim - 2
    strides, dilations = (call.integers(name) or (1,) * count for name in ("strides", "dilations"))
    extra, pads = call.integers("output_padding") or (0,) * count, call.integers("pads") or (0,) * 2 * count
    full = [
        (n - 1) * s + d * (k - 1) + 1 + e
        for n, s, d, k, e in zip(x.shape[1:-1], strides, dilations, kernel, extra, strict=True)
    ]
    shape, auto = call.integers("output_shape"), call.text("auto_pad", "NOTSET")
    if shape is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        shape = tuple(n * s for n, s in zip(x.shape[1:-1], strides, strict=True))
    if shape is not None:
        total = [max(n - m, 0) for n, m in zip(full, shape[-count:], strict=True)]
        less = [n // 2 for n in total]
        more = [n - half for n, half in zip(total, less, strict=True)]
        pads = (*more, *less) if auto == "SAME_LOWER" else (*less, *more)
    if prod(kernel) > MOST_TAPS or x.shape[-1] != len(weight) or len(weight) % group:
        raise ValueError(f"{x.shape[-1]} channels for a kernel of shape {weight.shape} in {group} groups")
    own, fan_in = weight.shape[1], x.shape[-1] // group
    call.cost.claim((len(x), *full, own * group), copies=2)
    call.cost.spend(len(x) * prod(x.shape[1:-1]) * weight.size)
    result = np.zeros((len(x), *full, own * group), np.float32)
    for place in np.ndindex(*kernel):
        slices = tuple(
            slice(p * d, p * d + (n - 1) * s + 1, s)
            for p, d, s, n in zip(place, dilations, strides, x.shape[1:-1], strict=True)
        )
        for g in range(group):
            inputs, outputs = slice(g * fan_in, (g + 1) * fan_in), slice(g * own, (g + 1) * own)
            result[:, *slices, outputs] += x[..., inputs] @ weight[(inputs, slice(None), *place)]
    ends = tuple(slice(a, n - b) for a, b, n in zip(pads[:count], pads[count:], full, strict=True))
    result = result[:, *ends]
    bias = call.get(2)
    return _channels_first(result if bias is None else result + bias)


def _pool_windows(call: Call) -> tuple[_Windows, np.ndarray]:
    x = _channels_last(call[0])
    windows = _Windows(call, x.shape[1:-1], call.integers("kernel_shape") or ())
    entries = len(x) * prod(windows.out) * x.shape[-1]
    call.cost.claim((entries,), copies=2)
    call.cost.spend(entries * prod(windows.kernel))
    return windows, x


def _max_pool(call: Call) -> np.ndarray:
    if call.outputs > 1:
        raise ValueError("places of the largest entries are not known")
    windows, x = _pool_windows(call)
    first, *taps = windows.taps(windows.padded(x, -np.inf, call))
    result = first.copy()
    for tap in taps:
        np.maximum(result, tap, out=result)
    return _channels_first(result)


def _sums(windows: _Windows, x: np.ndarray, call: Call) -> Float32[np.ndarray, "..."]:
    first, *taps = windows.taps(windows.padded(x, 0.0, call))
    result = first.copy()
    for tap in taps:
        result += tap
    return result


def _average_pool(call: Call) -> np.ndarray:
    windows, x = _pool_windows(call)
    result = _sums(windows, x, call)
    counted = np.ones((1, *x.shape[1:-1], 1), np.float32)
    if call.integer("count_include_pad", 0):  # padding counts, but not what a window reads beyond it
        told = [(a, b) for a, b in zip(windows.before, windows.told, strict=True)]
        counted = np.pad(counted, [(0, 0), *told, (0, 0)], constant_values=1)
        windows.before = (0,) * len(told)
        windows.after = [n - m for n, m in zip(windows.after, windows.told, strict=True)]
    result /= _sums(windows, counted, call)
    return _channels_first(result)


def _global(reduce: str) -> Operator:
    def pool(call: Call) -> np.ndarray:
        x = call[0]
        return getattr(x, reduce)(axis=tuple(range(2, x.ndim)), keepdims=True)

    return pool


OPERATORS: dict[str, Operator] = {
    **{"Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "AveragePool": _average_pool},
    **{"GlobalAveragePool": _global("mean"), "GlobalMaxPool": _global("max")},
}
