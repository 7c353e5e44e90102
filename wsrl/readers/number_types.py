"""Types of numbers by their names; the package of those that NumPy lacks is loaded when a file holds such numbers.

To load it takes half a second of a processor's time, as long as embedding fifty small files.
"""

from functools import cache

import numpy as np

LARGEST_BFLOAT16 = (2 - 2**-7) * 2.0**127


@cache
def number_type(name: str) -> np.dtype:
    """Returns the type that NumPy or `ml_dtypes` has under a name, e.g. `float32` or `bfloat16`."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
