"""Operators that move entries or tell of shapes."""

from collections.abc import Sequence

import numpy as np

from wsrl.forward.operators.call import Call, Operator


def _reshape(call: Call) -> np.ndarray:
    x, wanted = call[0], call.integers("shape", 1) or ()
    keep = not call.integer("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and keep else n for i, n in enumerate(wanted)])


def _flatten(call: Call) -> np.ndarray:
    x, axis = call[0], call.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _transpose(call: Call) -> np.ndarray:
    return call[0].transpose(call.integers("perm"))


def _squeeze(call: Call) -> np.ndarray:
    axes = call.integers("axes", 1)
    return call[0].squeeze(axes if axes else None)


def _unsqueeze(call: Call) -> np.ndarray:
    return np.expand_dims(call[0], call.integers("axes", 1) or ())


def _concat(call: Call) -> np.ndarray:
    parts = [call[i] for i in range(len(call.inputs))]
    axis = call.integer("axis", 0)
    call.cost.claim([sum(p.size for p in parts)])
    return np.concatenate(parts, axis)


def _split(call: Call) -> list[np.ndarray]:
    x, sizes = call[0], call.integers("split", 1)
    axis = call.integer("axis", 0)
    if sizes is None:
        length = -(-x.shape[axis] // call.outputs)
        sizes = [length] * (call.outputs - 1) + [x.shape[axis] - length * (call.outputs - 1)]
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _slice(call: Call) -> np.ndarray:
    x = call[0]
    starts, ends = call.integers("starts", 1) or (), call.integers("ends", 2) or ()
    axes = call.integers("axes", 3) or range(len(starts))
    steps = call.integers("steps", 4) or (1,) * len(starts)
    chosen = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = x.shape[axis]
        end = None if step < 0 and end < -last else end  # a reversed slice that reaches the first entry
        chosen[axis % x.ndim] = slice(start, end, step)
    return x[tuple(chosen)]


def _gather(call: Call) -> np.ndarray:
    x, places, axis = call[0], call[1], call.integer("axis", 0)
    call.cost.claim((places.size, x.size // max(x.shape[axis], 1)))
    return np.take(x, places, axis)


def _gather_elements(call: Call) -> np.ndarray:
    axis = call.integer("axis", 0)
    return np.take_along_axis(call[0], call[1] % call[0].shape[axis], axis)


def _gather_nd(call: Call) -> np.ndarray:
    x, places, batch = call[0], call[1], call.integer("batch_dims", 0)
    if batch:
        raise ValueError("batches of places are not known")
    return x[tuple(np.moveaxis(places, -1, 0))]


def _scatter_nd(call: Call) -> np.ndarray:
    if call.text("reduction", "none") != "none":
        raise ValueError("sums of what is scattered are not known")
    result = call[0].copy()
    result[tuple(np.moveaxis(call[1], -1, 0))] = call[2]
    return result


def _expand(call: Call) -> np.ndarray:
    shape = np.broadcast_shapes(call[0].shape, tuple(call[1].tolist()))
    call.cost.claim(shape)
    return np.broadcast_to(call[0], shape)


def _tile(call: Call) -> np.ndarray:
    times = tuple(call[1].tolist())
    call.cost.claim([call[0].size, *times])
    return np.tile(call[0], times)


def _shape(call: Call) -> np.ndarray:
    ndim = call[0].ndim
    return np.array(call[0].shape[call.integer("start", 0) : call.integer("end", ndim)], np.int64)


def _constant_of_shape(call: Call) -> np.ndarray:
    shape = tuple(call[0].tolist())
    call.cost.claim(shape)
    value = call.attributes.get("value")
    kind = np.bool_ if isinstance(value, bool) else np.int64 if isinstance(value, int) else np.float32
    return np.full(shape, value or 0, kind)


def _range(call: Call) -> np.ndarray:
    start, limit, step = (call[i].item() for i in range(3))
    call.cost.claim([max(0, int((limit - start) / step) + 1)])
    return np.arange(start, limit, step).astype(call[0].dtype)


def _pad(call: Call) -> np.ndarray:
    x, pads = call[0], call.integers("pads", 1) or call.integers("paddings") or ()
    axes = call.integers("axes", 3) or tuple(range(x.ndim))
    half = len(pads) // 2
    width = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        width[axis % x.ndim] = (pads[i], pads[half + i])
    cut = tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(width, x.shape, strict=True))
    width = [(max(a, 0), max(b, 0)) for a, b in width]
    call.cost.claim([n + a + b for (a, b), n in zip(width, x.shape, strict=True)])
    mode = call.text("mode", "constant")
    if mode == "constant":
        return np.pad(x[cut], width, constant_values=call.scalar("value", 2) or 0)
    if mode not in ("reflect", "edge", "wrap"):
        raise ValueError(f"padding by {mode!r} is not known")
    return np.pad(x[cut], width, mode=mode)


def _depth_to_space(call: Call) -> np.ndarray:
    (n, c, h, w), b = call[0].shape, call.integer("blocksize", 1)
    if call.text("mode", "DCR") == "DCR":
        parts = call[0].reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = call[0].reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(call: Call) -> np.ndarray:
    (n, c, h, w), b = call[0].shape, call.integer("blocksize", 1)
    parts = call[0].reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b**2, h // b, w // b)


def _one_hot(call: Call) -> np.ndarray:
    places, depth, (off, on) = call[0], int(call[1].item()), call[2]
    axis = call.integer("axis", -1)
    call.cost.claim((*places.shape, depth))
    found = np.where(np.equal.outer(places % depth, np.arange(depth)), on, off)
    return np.moveaxis(found, -1, axis)


def _trilu(call: Call) -> np.ndarray:
    offset = call.get(1)
    return (np.triu if call.integer("upper", 1) else np.tril)(call[0], 0 if offset is None else int(offset.item()))


def _cum_sum(call: Call) -> np.ndarray:
    if call.integer("exclusive", 0) or call.integer("reverse", 0):
        raise ValueError("sums that leave out an entry or run backward are not known")
    return call[0].cumsum(int(call[1].item())).astype(call[0].dtype)


def _top_k(call: Call) -> Sequence[np.ndarray]:
    x, axis = call[0], call.integer("axis", -1)
    count = int(call.scalar("k", 1) or 1)
    order = np.argsort(-x if call.integer("largest", 1) else x, axis=axis, kind="stable")
    places = np.take(order, np.arange(count), axis)
    return np.take_along_axis(x, places, axis), places


OPERATORS: dict[str, Operator] = {
    **{"Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Squeeze": _squeeze},
    **{"Unsqueeze": _unsqueeze, "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather},
    **{"GatherElements": _gather_elements, "GatherND": _gather_nd, "ScatterND": _scatter_nd, "Expand": _expand},
    **{"Tile": _tile, "Shape": _shape, "ConstantOfShape": _constant_of_shape, "Range": _range, "Pad": _pad},
    **{"DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth, "OneHot": _one_hot, "Trilu": _trilu},
    **{"CumSum": _cum_sum, "TopK": _top_k, "Size": lambda call: np.array(call[0].size, np.int64)},
}
