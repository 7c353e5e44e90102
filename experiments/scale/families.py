"""A large zoo made of a small one: families of a parent, its fine-tunes, merges and copies, and theirs.

- Parents are the real vectors. More of them are drawn from a normal distribution with their mean and covariance, which
  is shrunk by the rule of Ledoit and Wolf (2004), so that it has no empty directions though the real ones are few.
- Sizes of families follow a power law: a share 1/s of them has s members or more, up to a largest size.
- Each further member is a child of a random one before it, as in a random recursive tree. The cosine of the two is that
  of a random real vector to its nearest relative, and the direction of the difference is drawn with the covariance,
  shrunk likewise, of the real differences.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int
from sklearn.covariance import ledoit_wolf

from wsrl.errors import InputError
from wsrl.evaluation.ranking import unit_vectors
from wsrl.origins.relatives import COSINE

SAME = 1 - 1e-5  # cosine from which two vectors are copies of one another: they are no parent and child
LARGEST = 0.02  # share of all models that a family has at most
BLOCK = 16_384  # models that are made at once, and more where a family needs it
FEWEST = 16  # real vectors, and pairs of relatives among them, that a covariance is taken of


@dataclass(frozen=True)
class Spread:
    """What families are drawn from. A factor F gives vectors of covariance F.T @ F from standard normal ones.

    Attributes:
      parents: real vectors, of length 1, all different.
      mean, factor: of the distribution of parents.
      cosines: of real vectors with their nearest relatives.
      change: factor of the directions from a parent to its child.
    """

    parents: Float32[np.ndarray, "n dim"]
    mean: Float32[np.ndarray, "dim"]
    factor: Float32[np.ndarray, "dim dim"]
    cosines: Float32[np.ndarray, "pairs"]
    change: Float32[np.ndarray, "dim dim"]


def measure_families(vectors: Float[np.ndarray, "n dim"]) -> Spread:
    """Measures the spread of real vectors.

    A relative is another vector of a cosine of at least `wsrl.origins.relatives.COSINE`.

    Raises:
      InputError: there are too few vectors, or too few that have a relative.
    """
    unit = unit_vectors(np.asarray(vectors, np.float64))
    cosine = unit @ unit.T
    first = ~(np.triu(cosine >= SAME, 1).any(0))  # of vectors that are equal
    unit, cosine = unit[first], cosine[np.ix_(first, first)]
    np.fill_diagonal(cosine, -1)
    nearest, found = cosine.argmax(1), cosine.max(1)
    related = np.flatnonzero(found >= COSINE)
    if len(related) < FEWEST:
        reason = f"{len(related)} of its {len(unit)} different vectors have a relative"
        raise InputError("--index", reason, f"name an index of models of which {FEWEST} are related")
    changes = unit[related] - unit[nearest[related]]
    return Spread(
        unit.astype(np.float32),
        unit.mean(0).astype(np.float32),
        _factor(unit - unit.mean(0)),
        found[related].astype(np.float32),
        _factor(unit_vectors(changes)),
    )


def family_sizes(count: int, rng: np.random.Generator) -> Int[np.ndarray, "families"]:
    """Draws sizes of families that hold `count` models together."""
    largest = max(1, int(LARGEST * count))
    sizes = np.minimum(1 / rng.uniform(1 / (largest + 1), 1, count), largest).astype(np.int64)
    ends = np.cumsum(sizes)
    last = int(np.searchsorted(ends, count))
    sizes[last] -= ends[last] - count
    return sizes[: last + 1]


def draw_families(
    spread: Spread, count: int, rng: np.random.Generator
) -> Iterator[tuple[Float32[np.ndarray, "block dim"], Int[np.ndarray, "block"]]]:
    """Yields unit vectors of a zoo of `count` models, family after family, with the number of the family of each."""
    sizes = family_sizes(count, rng)
    real = rng.permutation(len(spread.parents))
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = ends[first] - sizes[first]
        last = max(first + 1, int(np.searchsorted(ends, before + BLOCK)))
        yield _draw_block(spread, np.arange(first, last), sizes[first:last], real, rng)
        first = last


def _draw_block(
    spread: Spread,
    families: Int[np.ndarray, "families"],
    sizes: Int[np.ndarray, "families"],
    real: Int[np.ndarray, "n"],
    rng: np.random.Generator,
) -> tuple[Float32[np.ndarray, "block dim"], Int[np.ndarray, "block"]]:
    dim = len(spread.mean)
    family = np.repeat(families, sizes)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    within = np.arange(len(family)) - starts
    parent = starts + (rng.random(len(family)) * within).astype(np.int64)  # of the first of a family: itself
    vectors = np.empty((len(family), dim), np.float32)
    new = families[families >= len(real)]
    drawn = spread.mean + rng.standard_normal((len(new), dim), np.float32) @ spread.factor
    vectors[within == 0] = np.concatenate([spread.parents[real[families[families < len(real)]]], _unit(drawn)])
    cosine = rng.choice(spread.cosines, len(family))[:, None]
    depth = _depth(parent, within)
    for level in range(1, int(depth.max(initial=0)) + 1):
        own = np.flatnonzero(depth == level)
        above = vectors[parent[own]]
        change = rng.standard_normal((len(own), dim), np.float32) @ spread.change
        change = _unit(change - (change * above).sum(1, keepdims=True) * above)
        vectors[own] = cosine[own] * above + np.sqrt(1 - cosine[own] ** 2) * change
    return _unit(vectors), family


def _depth(parent: Int[np.ndarray, "n"], within: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """How many generations lie between each and the first of its family."""
    depth, above = np.zeros(len(parent), np.int64), np.arange(len(parent))
    while (walking := within[above] > 0).any():
        depth += walking
        above = parent[above]
    return depth


def _factor(deviations: Float[np.ndarray, "n dim"]) -> Float32[np.ndarray, "dim dim"]:
    covariance = ledoit_wolf(deviations, assume_centered=True)[0]
    values, axes = np.linalg.eigh(covariance)
    return (np.sqrt(np.maximum(values, 0))[:, None] * axes.T).astype(np.float32)


def _unit(vectors: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
