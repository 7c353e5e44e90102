"""Resize: separable interpolation, one matrix an axis."""

import numpy as np
from jaxtyping import Float32

from wsrl.forward.operators.call import Call, Operator


def _places(new: int, old: int, scale: float, mode: str) -> np.ndarray:
    """Where the new entries lie among the old ones (`coordinate_transformation_mode`)."""
    place = np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return place / scale
    if mode == "align_corners":
        return place * ((old - 1) / (new - 1)) if new > 1 else place * 0
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and new > 1):
        return (place + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return place * 0
    if mode == "half_pixel_symmetric":
        return old / 2 * (1 - new / (scale * old)) + (place + 0.5) / scale - 0.5
    raise ValueError(f"resizing by {mode!r} is not known")


def _nearest(places: np.ndarray, old: int, rounding: str) -> np.ndarray:
    if rounding == "round_prefer_floor":
        found = np.ceil(places - 0.5)
    elif rounding == "round_prefer_ceil":
        found = np.floor(places + 0.5)
    else:
        found = np.floor(places) if rounding == "floor" else np.ceil(places)
    return np.clip(found, 0, old - 1).astype(np.int64)


def _matrix(places: np.ndarray, old: int, cubic: float | None, exclude: bool) -> Float32[np.ndarray, "new old"]:
    """What each new entry takes of the old ones; linear, or cubic with a coefficient (Keys 1981)."""
    first = np.floor(places).astype(np.int64)
    offsets = (0, 1) if cubic is None else (-1, 0, 1, 2)
    weight = np.zeros((len(places), old))
    rows = np.arange(len(places))
    for offset in offsets:
        distance = np.abs(places - (first + offset))
        if cubic is None:
            share = np.maximum(0.0, 1.0 - distance)
        else:
            near = ((cubic + 2) * distance - (cubic + 3)) * distance**2 + 1
            far = ((cubic * distance - 5 * cubic) * distance + 8 * cubic) * distance - 4 * cubic
            share = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        inside = (first + offset >= 0) & (first + offset < old)
        share = share * inside if exclude else share
        np.add.at(weight, (rows, np.clip(first + offset, 0, old - 1)), share)
    if exclude:
        weight /= weight.sum(1, keepdims=True)
    return weight.astype(np.float32)


def _resize(call: Call) -> np.ndarray:
    x = call[0]
    scales, sizes = call.get(2), call.integers("sizes", 3)
    axes = [axis % x.ndim for axis in call.integers("axes") or range(x.ndim)]
    if call.integer("antialias", 0) or call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("smoothed or proportional resizing is not known")
    if scales is not None and scales.size:
        factors = [float(s) for s in scales.reshape(-1)]
        sizes = tuple(int(np.floor(x.shape[axis] * s)) for axis, s in zip(axes, factors, strict=True))
    elif sizes is not None:
        factors = [n / x.shape[axis] for axis, n in zip(axes, sizes, strict=True)]
    else:
        raise ValueError("no sizes")
    shape = list(x.shape)
    for axis, n in zip(axes, sizes, strict=True):
        shape[axis] = n
    call.cost.claim(shape, copies=2)
    mode, way = call.text("mode", "nearest"), call.text("coordinate_transformation_mode", "half_pixel")
    for axis, new, scale in zip(axes, sizes, factors, strict=True):
        old = x.shape[axis]
        if new == old and scale == 1:
            continue
        places = _places(new, old, scale, way)
        if mode == "nearest":
            x = np.take(x, _nearest(places, old, call.text("nearest_mode", "round_prefer_floor")), axis)
            continue
        cubic = call.number("cubic_coeff_a", -0.75) if mode == "cubic" else None
        matrix = _matrix(places, old, cubic, bool(call.integer("exclude_outside", 0)))
        call.cost.spend(x.size * new)
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


OPERATORS: dict[str, Operator] = {"Resize": _resize}
