"""The labeled examples that a zoo is asked with."""

from dataclasses import replace

import numpy as np

from wsrl.data import ImageSet, load_image_set
from wsrl.errors import InputError


def load_examples(name: str, data_dir: str | None, image_size: int, max_images: int, seed: int) -> ImageSet:
    """Loads a data set by any name of `wsrl.data`; its classes are those that occur, numbered anew.

    Raises:
      InputError: it cannot be read, has fewer than two classes, or too few images to hold any out.
    """
    images = load_image_set(name, data_dir, image_size, max_images, seed)
    present, y = np.unique(images.y, return_inverse=True)
    if len(present) < 2:
        raise InputError(name, "all images are of one class", "give examples of two classes or more")
    if not images.held_out.any() or len(np.unique(y[~images.held_out])) < 2:
        raise InputError(name, "too few different images to hold some out", "give more examples")
    return replace(images, y=y.astype(np.int64), classes=len(present))
