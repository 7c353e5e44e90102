"""How children of one base are compared: block by block, less what all children share, in units of what strangers have.

Whatever the task, fine-tuning changes some directions of a base: the blocks of all children have a mean, which says
nothing of any of them. It is subtracted, and blocks are brought to length 1 again. The cosines that are left differ in
size with the kind of the children, not with their tasks: adapters of rank 1 meet in few directions, so that two of them
are far more or far less alike by chance than fully fine-tuned models are. Each block of a child is therefore divided by
the root of its spread, the root mean square of its cosines with a cohort of children; the similarity of two children is
the weighted mean over the blocks that both have. `levels` does the same with the whole: as in the recognition of
speakers (Auckenthaler, Carey and Lloyd-Thomas 2000), a child's similarities are counted from their mean over the cohort
in units of their deviation.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from wsrl.relative.vector import Block
from wsrl.search.query_expansion import CENTERED_FROM, SMALL

# Weight of a block of each kind, chosen on training tasks (`experiments.tables.model_tree`)
WEIGHTS = {"product": 1.0, "head": 2.0}
COHORT = 512  # children that others are measured on, at most
EQUAL = 0.999  # cosine of two blocks, or share of the similarity with itself, from which two children are equal


def kind_weights(blocks: Sequence[Block], weights: Mapping[str, float] = WEIGHTS) -> Float32[np.ndarray, " blocks"]:
    """Returns the weight of each block by its kind."""
    return np.array([weights[block.kind] for block in blocks], np.float32)


class Described(NamedTuple):
    """What children are compared by.

    Attributes:
      features: whose products add up over blocks.
      presence: the root of the weight of each block that a child has, 0 for the others.
    """

    features: Float32[np.ndarray, "m dim"]
    presence: Float32[np.ndarray, "m blocks"]


def compare(queries: Described, children: Described) -> Float32[np.ndarray, "q m"]:
    """Returns the similarity of each query to each child: the weighted mean over the blocks that both have; 0 for none.

    They are cosines, -1 to 1, where there are too few children to measure spreads on.
    """
    total = queries.presence @ children.presence.T
    return queries.features @ children.features.T / np.maximum(total, SMALL)


class Metric:
    """Compares children of one base.

    Args:
      vectors: of the children that are searched, of which means and spreads are taken if there are twenty or more.
      blocks: of the vectors; see `wsrl.relative.vector.RelativeEncoder`.
      weights: of the blocks; by default those of their kinds. `wsrl.relative.fit_weights` learns others.
      cohort: children that spreads are measured on, at most; 0 for none.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "n dim"],
        blocks: Sequence[Block],
        weights: Float[np.ndarray, " blocks"] | None = None,
        cohort: int = COHORT,
    ):
        self.blocks = blocks
        self._weights = kind_weights(blocks) if weights is None else np.asarray(weights, np.float32)
        self._means = np.zeros(vectors.shape[1], np.float32)
        for block in blocks:
            own = vectors[:, block.entries]
            own = own[own.any(1)]
            if len(own) >= CENTERED_FROM:  # as in the search by function
                self._means[block.entries] = own.mean(0)
        chosen = np.random.default_rng(65).permutation(len(vectors))[:cohort]
        self._cohort = vectors[np.sort(chosen)] if len(vectors) >= CENTERED_FROM else vectors[:0]
        self._cohort_units = self._units(self._cohort)

    def scaled(self, vectors: Float[np.ndarray, "m dim"]) -> Float32[np.ndarray, "m dim"]:
        """Returns the vectors with each block less its mean, over the root of its spread, or zero."""
        found = self._units(vectors)
        for block in self.blocks:
            own = found[:, block.entries]
            cohort = self._cohort_units[:, block.entries]
            cohort = cohort[cohort.any(1)]
            if len(cohort) >= CENTERED_FROM:
                cosines = own @ cohort.T
                others = cosines < EQUAL
                spread = np.sqrt((np.square(cosines) * others).sum(1) / np.maximum(others.sum(1), 1))
                found[:, block.entries] = own / np.sqrt(np.maximum(spread, SMALL))[:, None]
        return found

    def describe(self, vectors: Float[np.ndarray, "m dim"]) -> Described:
        """Returns what children are compared by."""
        presence = np.stack([vectors[:, block.entries].any(1) for block in self.blocks], 1)
        roots, features = np.sqrt(self._weights), self.scaled(vectors)
        for block, root in zip(self.blocks, roots, strict=True):
            features[:, block.entries] *= root
        return Described(features, presence * roots)

    def similarities(
        self, queries: Float[np.ndarray, "q dim"], vectors: Float[np.ndarray, "m dim"]
    ) -> Float32[np.ndarray, "q m"]:
        """Returns the similarity of each query to each child; see `compare`."""
        return compare(self.describe(queries), self.describe(vectors))

    def levels(self, children: Described) -> tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, " m"]] | None:
        """Returns mean and deviation of each child's similarities with the cohort; None if there are too few children.

        Equals of a child do not count.
        """
        if not len(self._cohort):
            return None
        found = compare(children, self.describe(self._cohort))
        own = np.square(children.features).sum(1) / np.maximum(np.square(children.presence).sum(1), SMALL)
        others = found < EQUAL * own[:, None]
        count = np.maximum(others.sum(1), 1).astype(np.float32)
        mean = (found * others).sum(1) / count
        return mean, np.sqrt((np.square(found - mean[:, None]) * others).sum(1) / count)

    def _units(self, vectors: Float[np.ndarray, "m dim"]) -> Float32[np.ndarray, "m dim"]:
        found = np.zeros(vectors.shape, np.float32)
        for block in self.blocks:
            own = vectors[:, block.entries]
            less = np.where(own.any(1, keepdims=True), own - self._means[block.entries], 0.0)
            lengths = np.linalg.norm(less, axis=1, keepdims=True)
            found[:, block.entries] = less / np.maximum(lengths, SMALL)
        return found
