"""A quick sieve of pairs of models by the signatures that an index holds of their tensors; no file is opened.

Neither order nor scales of units change a signature (see `wsrl.signature.descriptor`), and rounding changes it little.
So two models whose tensors have the same shapes, and signatures farther apart than rounding makes them, are not the
same network. Whatever cannot be told so is left to a proof on the files.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64
from scipy.optimize import linear_sum_assignment

SIZES = 3  # numbers of a signature that tell the shape
SAME_SIZE = 1e-4
FARTHEST = {16.0: 1e-3, 8.0: 0.01, 0.0: 0.05}  # bits from which on -> distance of copies that are known in so many

Signatures = Float32[np.ndarray, "_tensors numbers"]


def distance(a: Signatures, b: Signatures) -> float | None:
    """Returns how far the tensors of two models are apart; None where their shapes are not the same.

    Tensors of one shape are paired so that their signatures are nearest. The result is the mean, by entries, of the
    root mean square differences of the numbers of a signature.

    Args:
      a, b: signatures of all tensors, in any order; see `wsrl.signature.weights_vector.Signature`.
    """
    if len(a) != len(b) or not len(a):
        return None
    a, b = _by_size(a), _by_size(b)
    if np.abs(a[:, :SIZES] - b[:, :SIZES]).max() > SAME_SIZE:
        return None
    starts = np.flatnonzero((np.diff(a[:, :SIZES], axis=0) > SAME_SIZE).any(1)) + 1
    total, entries = 0.0, np.exp(a[:, 0].astype(np.float64))
    for own, other, sizes in zip(np.split(a, starts), np.split(b, starts), np.split(entries, starts), strict=True):
        x, y = own[:, SIZES:].astype(np.float64), other[:, SIZES:].astype(np.float64)
        far = np.sqrt(np.square(x[:, None] - y[None]).mean(2))
        total += float(far[linear_sum_assignment(far)].sum() * sizes[0])
    return total / float(entries.sum())


def may_be_same(a: Signatures, b: Signatures, bits: float) -> bool:
    """Whether two models can be the same network.

    Args:
      a, b: see `distance`.
      bits: in which the numbers are known of the one that is less precise.
    """
    far = distance(a, b)
    return far is None or far <= next(most for least, most in FARTHEST.items() if bits >= least)


def _by_size(signatures: Signatures) -> Signatures:
    return signatures[np.lexsort(np.round(signatures[:, SIZES - 1 :: -1], 3).T[::-1])]


def nearest_tensors(
    query: Signatures, rows: Signatures, farthest: float
) -> Iterator[tuple[Float32[np.ndarray, " numbers"], Int64[np.ndarray, " near"], Float32[np.ndarray, " near"]]]:
    """Yields each tensor of a query with the places of those that may hold the same numbers, and their distances.

    Args:
      query, rows: signatures, of any number of models.
      farthest: root mean square difference of the numbers of two signatures.
    """
    order = np.argsort(rows[:, 0], kind="stable")
    sizes = rows[order, 0]
    for signature in query:
        first, last = np.searchsorted(sizes, [signature[0] - SAME_SIZE, signature[0] + SAME_SIZE])
        places = order[first:last]
        own = rows[places]
        alike = np.abs(own[:, :SIZES] - signature[:SIZES]).max(1, initial=0) <= SAME_SIZE
        far = np.sqrt(np.square(own[:, SIZES:] - signature[SIZES:]).mean(1))
        near = alike & (far <= farthest)
        yield signature, places[near], far[near]
