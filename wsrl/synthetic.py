"""Images that are drawn, not collected, and classes that a random teacher gives to images."""

import numpy as np
from jaxtyping import Int64, UInt8

SIDE = 28  # pixels of the drawn images
LEAVES = 24  # discs of an image
TEACHER_CLASSES = 10
TEACHER_FEATURES = 64


def dead_leaves(count: int, rng: np.random.Generator) -> UInt8[np.ndarray, "count side side"]:
    """Discs of all sizes laid over one another, of random grays.

    Such images share the edges, occlusions and the scale invariance of natural ones (Lee, Mumford and Huang 2001).
    """
    y, x = np.mgrid[:SIDE, :SIDE]
    images = np.tile(rng.random((count, 1, 1)), (1, SIDE, SIDE))
    for _ in range(LEAVES):
        top, left = rng.uniform(0, SIDE, (2, count, 1, 1))
        radius = 2 / (1 - rng.random((count, 1, 1)) * 0.85)  # density falls as the cube of the radius, nearly
        inside = (y - top) ** 2 + (x - left) ** 2 < radius**2
        images = np.where(inside, rng.random((count, 1, 1)), images)
    return np.rint(images * 255).astype(np.uint8)


def teacher_labels(images: UInt8[np.ndarray, "n size size"], rng: np.random.Generator) -> Int64[np.ndarray, "n"]:
    """Classes that a random network gives to images: smoothed pixels, random ReLU features, random linear outputs.

    The outputs are standardized over the images, so that no class takes all of them.
    """
    pixels = images.reshape(len(images), -1).astype(np.float64)
    size = images.shape[1]
    near = np.exp(-0.5 * (np.subtract.outer(np.arange(size), np.arange(size)) / (0.12 * size)) ** 2)
    weights = rng.normal(size=(size, size, TEACHER_FEATURES))
    weights = np.einsum("ya,xb,abf->yxf", near, near, weights).reshape(size * size, -1)
    centered = pixels - pixels.mean(0)
    features = centered @ weights
    features = np.maximum(features / features.std(0), 0)
    outputs = features @ rng.normal(size=(TEACHER_FEATURES, TEACHER_CLASSES))
    outputs = (outputs - outputs.mean(0)) / outputs.std(0)
    return outputs.argmax(1).astype(np.int64)
