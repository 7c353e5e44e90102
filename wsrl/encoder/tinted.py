"""Gray images in color: a network that tells things by their colors answers to gray ones all alike.

Colors are drawn, not learned. Each image has its own gains of the three channels and its own tint, which follows
another image half of the way, so that colors change within an image where its brightness does not.
"""

import numpy as np
from jaxtyping import Float32

SEED = 0
GAIN, TINT = 0.2, 0.25  # deviations; stronger tints hide what is on the images


def tinted(
    images: Float32[np.ndarray, "images height width channels"],
) -> Float32[np.ndarray, "images height width 3"]:
    """Returns gray images in color; images that have colors as they are.

    Args:
      images: from -1 to 1, an even number of them. The first ones get the colors that they get without the rest.
    """
    if images.shape[3] != 1:
        return images
    count = len(images)
    colors = np.random.default_rng(SEED).normal(size=(count, 2, 1, 1, 3)).astype(np.float32)
    gain, tint = 1 + GAIN * colors[:, 0], TINT * colors[:, 1]
    tint = tint - tint.mean(3, keepdims=True)  # the brightness stays
    other = images[np.arange(count) ^ 1]  # the neighbor
    return np.clip(images * gain + tint * (1 + other) / 2, -1, 1).astype(np.float32)
