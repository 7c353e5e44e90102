"""Templates: of each class of a network the image that raises its logit fastest."""

from typing import Any

import numpy as np
from jaxtyping import Float

from wsrl.arrays import namespace, resized

SMALL = 1e-12


def fit_gradients(
    gradients: Float[Any, "networks classes rows"], shape: tuple[int, int, int], size: tuple[int, int]
) -> Float[Any, "networks classes height width"]:
    """Sums gradients, one row a channel and pixel of inputs [height, width, channels], over channels; resizes them."""
    images = gradients.reshape(*gradients.shape[:2], shape[2], *shape[:2]).sum(2)
    return images if shape[:2] == size else resized(images, size)


def blurred(
    images: Float[Any, "networks classes height width"], deviation: float
) -> Float[Any, "networks classes height width"]:
    """Convolves images with a Gaussian; at the border it is cut off and normalized."""

    def kernel(size: int) -> Any:
        place = np.arange(size)
        weights = np.exp(-0.5 * (np.subtract.outer(place, place) / max(deviation, SMALL)) ** 2)
        return namespace(images).asarray(weights / weights.sum(1, keepdims=True), dtype=images.dtype)

    return kernel(images.shape[2]) @ images @ kernel(images.shape[3]).T
