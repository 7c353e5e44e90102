"""How children of one base are compared: block by block, less what all children share.

Whatever the task, fine-tuning changes some directions of a base: the blocks of all children have a mean, which says
nothing of any of them. It is subtracted, and blocks are brought to length 1 again. The similarity of two children is
the mean of the cosines of the blocks that both have, weighted by their kind: an adapter of two modules can be as near
to a fully fine-tuned model as to another adapter.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32

from wsrl.relative.vector import Block
from wsrl.search.query_expansion import CENTERED_FROM, SMALL

# Weight of all blocks of a kind together, chosen on training tasks (`experiments.tables.model_tree`)
WEIGHTS = {"product": 1.0, "head": 0.5}


def kind_weights(blocks: Sequence[Block], weights: Mapping[str, float] = WEIGHTS) -> Float32[np.ndarray, " blocks"]:
    """Returns the weight of each block, where those of a kind share what the kind has."""
    kinds = [block.kind for block in blocks]
    return np.array([weights[kind] / kinds.count(kind) for kind in kinds], np.float32)


class Metric:
    """Compares children of one base.

    Args:
      vectors: of the children that are searched, of which the means are taken.
      blocks: of the vectors; see `wsrl.relative.vector.RelativeEncoder`.
      weights: of the blocks; by default those of their kinds. `wsrl.relative.fit_weights` learns others.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "n dim"],
        blocks: Sequence[Block],
        weights: Float[np.ndarray, " blocks"] | None = None,
    ):
        self._blocks = blocks
        self._weights = kind_weights(blocks) if weights is None else np.asarray(weights, np.float32)
        self._means = np.zeros(vectors.shape[1], np.float32)
        for block in blocks:
            own = vectors[:, block.entries]
            own = own[own.any(1)]
            if len(own) >= CENTERED_FROM:  # as in the search by function
                self._means[block.entries] = own.mean(0)

    def centered(self, vectors: Float[np.ndarray, "m dim"]) -> Float32[np.ndarray, "m dim"]:
        """Returns the vectors with each block less its mean, of the root of its weight as length, or zero."""
        found = np.zeros(vectors.shape, np.float32)
        for block, weight in zip(self._blocks, self._weights, strict=True):
            own = vectors[:, block.entries]
            less = np.where(own.any(1, keepdims=True), own - self._means[block.entries], 0.0)
            lengths = np.linalg.norm(less, axis=1, keepdims=True)
            found[:, block.entries] = np.sqrt(weight) * less / np.maximum(lengths, SMALL)
        return found

    def presence(self, vectors: Float[np.ndarray, "m dim"]) -> Float32[np.ndarray, "m blocks"]:
        """Returns the root of the weight of each block that a child has, 0 for the others."""
        there = np.stack([vectors[:, block.entries].any(1) for block in self._blocks], 1)
        return there * np.sqrt(self._weights)

    def similarities(
        self, queries: Float[np.ndarray, "q dim"], vectors: Float[np.ndarray, "m dim"]
    ) -> Float32[np.ndarray, "q m"]:
        """Returns the similarity of each query to each child, -1 to 1; 0 for those that share no block."""
        total = self.presence(queries) @ self.presence(vectors).T
        return self.centered(queries) @ self.centered(vectors).T / np.maximum(total, SMALL)
