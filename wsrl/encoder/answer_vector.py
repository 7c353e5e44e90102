"""A vector of what a network of any size answers to natural images: which of them it takes for alike.

Networks of one set of classes, in whatever order, answer alike to what they take for one thing. So the answers are
compared by the likeness of all pairs of images, as in representational similarity analysis (Kriegeskorte et al. 2008)
and centered kernel alignment (Kornblith et al. 2019). What two images have in common as arrays of pixels makes any
network answer alike to them, trained or not; this part is taken out by regression. Nothing is fitted to networks.
"""

import numpy as np
from jaxtyping import Float, Float32

VERSION = 2  # of the computation; vectors of another one do not compare
SMALL = 1e-12
FAINTEST = 0.05  # deviation of an output over images, of the largest; less than that is raised no further
WEAKEST = 0.02  # of the singular values of answers, of the largest; weaker ones are left out
EVEN = 0.3  # of the mean square of answers, added to each: so far two answers that say little are not taken for alike
MIXERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64 (Steele et al. 2014)
PLACES = 2**16  # images that pairs may be made of


def probe_order(count: int, most: int) -> np.ndarray:
    """Returns places among `count` images, spread evenly, so that the first halves of them are spread evenly too.

    Args:
      count: of images.
      most: places, a power of two.
    """
    bits = most.bit_length() - 1
    reversed_bits = [int(f"{place:0{bits}b}"[::-1], 2) if bits else 0 for place in range(most)]
    return np.array(reversed_bits) * count // most


def answer_vector(
    logits: Float32[np.ndarray, "images outputs"],
    images: Float32[np.ndarray, "images height width channels"],
    dim: int,
) -> Float32[np.ndarray, " dim"] | None:
    """Returns a vector of length 1, the same for any order of outputs; None where all images get one answer.

    Logits are centered over outputs, then over images; each output is scaled to one deviation over images, and what
    outputs say in common is damped, by the square root of singular values, as a few coarse distinctions would hide the
    fine ones. Then the likeness of two images is a cosine. The likenesses of all pairs, less what the pixels explain,
    are summed in `dim` bins with signs, both drawn by a hash (count sketch: Charikar et al. 2002), which keeps scalar
    products. One output is taken for the difference of two.

    Args:
      logits: of a network.
      images: what they are answers to.
      dim: length of the vector.
    """
    pairs = np.triu_indices(len(images), 1)
    likeness = _answered_alike(logits.astype(np.float64))[pairs]
    if not np.isfinite(likeness).all() or likeness.std() < SMALL:
        return None
    explained = np.linalg.qr(np.stack([np.ones(len(pairs[0])), *_of_pixels(images, pairs)], 1))[0]
    rest = likeness - explained @ (explained.T @ likeness)
    keys = _hashed(np.uint64(PLACES) * pairs[0].astype(np.uint64) + pairs[1].astype(np.uint64))
    signs = np.where(keys >> np.uint64(63), 1.0, -1.0)
    bins = np.bincount((keys % np.uint64(dim)).astype(np.int64), signs * rest, dim)
    return (bins / max(float(np.linalg.norm(bins)), SMALL)).astype(np.float32)


def _answered_alike(logits: Float[np.ndarray, "images outputs"]) -> Float[np.ndarray, "images images"]:
    """Damped likeness of answers, each output of which counts alike."""
    logits = np.concatenate([logits, -logits], 1) if logits.shape[1] == 1 else logits
    centered = _centered(logits)
    deviations = centered.std(0)
    return _damped(centered / np.maximum(deviations, max(FAINTEST * deviations.max(), SMALL)))


def _damped(centered: Float[np.ndarray, "images numbers"]) -> Float[np.ndarray, "images images"]:
    """Cosines of centered rows whose principal components are scaled by the square roots of their singular values;
    rows that are short beside others have smaller ones.
    """
    values, vectors = np.linalg.eigh(centered @ centered.T)
    kept = values > max(WEAKEST**2 * values[-1], SMALL)
    rows = vectors[:, kept] * values[kept] ** 0.25
    squares = (rows * rows).sum(1, keepdims=True)
    rows = rows / np.sqrt(np.maximum(squares + EVEN * squares.mean(), SMALL))
    return rows @ rows.T


def _centered(values: Float[np.ndarray, "images numbers"]) -> Float[np.ndarray, "images numbers"]:
    """Numbers less their mean in each row, then in each column; of 1 at most before the second."""
    centered = values - values.mean(1, keepdims=True)
    centered = centered / max(float(np.abs(centered).max()), SMALL)
    return centered - centered.mean(0)


def _likeness(values: Float[np.ndarray, "images numbers"]) -> Float[np.ndarray, "images images"]:
    """Cosines of rows that are centered both ways."""
    centered = _centered(values)
    rows = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), SMALL)
    return rows @ rows.T


def _of_pixels(images: Float32[np.ndarray, "images height width channels"], pairs: tuple) -> list[np.ndarray]:
    """What pairs of images have in common as pixels: pattern, brightness, contrast."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    numbers = (flat.mean(1), flat.std(1))
    patterns = (_likeness(flat)[pairs], _damped(_centered(flat))[pairs])
    return [*patterns, *(np.abs(np.subtract.outer(n, n))[pairs] for n in numbers)]


def _hashed(keys: np.ndarray) -> np.ndarray:
    """SplitMix64 of integers."""
    add, first, second = map(np.uint64, MIXERS)
    with np.errstate(over="ignore"):
        keys = (keys + np.uint64(1)) * add
        keys = (keys ^ (keys >> np.uint64(30))) * first
        keys = (keys ^ (keys >> np.uint64(27))) * second
        return keys ^ (keys >> np.uint64(31))
