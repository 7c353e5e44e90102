"""Functions of arrays that are of NumPy or of JAX: `namespace` tells which, by the Python array API standard."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32


def namespace(array: Any) -> Any:
    """`numpy` or `jax.numpy`, whichever an array, or what JAX traces in its place, belongs to."""
    return array.__array_namespace__()


def softmax(values: Float[Any, "..."], axis: int) -> Float[Any, "..."]:
    """Exponentials that add up to 1 along an axis."""
    if namespace(values) is not np:
        import jax  # which whoever has such values has imported

        return jax.nn.softmax(values, axis=axis)
    powers = np.exp(values - values.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def resized(images: Float[Any, "... height width"], size: tuple[int, int]) -> Float[Any, "... new_height new_width"]:
    """Images of another size, by linear interpolation; where they shrink, by means over as many pixels.

    As `jax.image.resize` with the method `linear`.
    """
    rows, columns = (_resize_matrix(old, new) for old, new in zip(images.shape[-2:], size, strict=True))
    xp = namespace(images)
    return xp.asarray(rows, dtype=images.dtype) @ images @ xp.asarray(columns.T, dtype=images.dtype)


def _resize_matrix(old: int, new: int) -> Float32[np.ndarray, "new old"]:
    """What each new pixel takes of the old ones along an axis; rounded as JAX does it."""
    ratio = np.float32(1) / (np.float32(new) / np.float32(old))
    center = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * ratio - np.float32(0.5)
    distance = np.abs(center[:, None] - np.arange(old, dtype=np.float32)) / max(ratio, np.float32(1))
    weight = np.maximum(np.float32(0), 1 - distance)
    return weight / weight.sum(1, keepdims=True)
