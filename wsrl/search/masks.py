"""What is made of a mask of models, such as those that a filter keeps, and is wanted again for the next search."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool

Made = TypeVar("Made")


class OfLastMask(Generic[Made]):
    """Keeps what was made of the last mask, if that cannot be written to: then the same object is the same mask.

    Args:
      make: of a mask.
    """

    def __init__(self, make: Callable[[Bool[np.ndarray, " n"]], Made]):
        self._make = make
        self._last: tuple[np.ndarray, Made] | None = None

    def __call__(self, mask: Bool[np.ndarray, " n"]) -> Made:
        """Returns what is made of a mask."""
        last = self._last  # another thread may put another in its place
        if last is None or last[0] is not mask:
            last = mask, self._make(mask)
            if not mask.flags.writeable:
                self._last = last
        return last[1]


def sealed(mask: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Returns a mask after it was made one that cannot be written to."""
    mask.flags.writeable = False
    return mask
