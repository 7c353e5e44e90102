"""How vectors of children are compared: block by block, less what all children share.

Whatever the task, fine-tuning changes some directions of a base: the blocks of all children have a mean, which says
nothing of any of them. It is subtracted, blocks are brought to length 1 again, and are weighted by their kind.
Nothing here is trained; `wsrl.relative.discriminant` learns from tasks what counts.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from wsrl.relative.vector import Block
from wsrl.search.query_expansion import CENTERED_FROM, SMALL, unit

# Squared weight of all blocks of a kind together, chosen on training tasks (`experiments.tables.model_tree`)
WEIGHTS = {"product": 1.0, "outputs": 1.0, "inputs": 1.0, "head": 1.0}


class Metric:
    """Brings vectors of one base's children into a form in which cosines compare them.

    Args:
      vectors: of the children that are searched.
      blocks: of the vectors.
      weights: see `WEIGHTS`.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "n dim"],
        blocks: Sequence[Block],
        weights: dict[str, float] = WEIGHTS,
    ):
        self.blocks = blocks
        self._means = np.zeros(vectors.shape[1], np.float32)
        self._scales = np.zeros(len(blocks), np.float32)
        kinds = [block.kind for block in blocks]
        for number, block in enumerate(blocks):
            own = vectors[:, block.entries]
            own = own[own.any(1)]
            if len(own) >= CENTERED_FROM:
                self._means[block.entries] = own.mean(0)
            self._scales[number] = np.sqrt(weights[block.kind] / kinds.count(block.kind))

    def __call__(self, vectors: Float[np.ndarray, "m dim"]) -> Float32[np.ndarray, "m dim"]:
        """Returns the vectors in that form, of length 1; blocks that a child does not have stay zero."""
        found = np.zeros(vectors.shape, np.float32)
        for block, scale in zip(self.blocks, self._scales, strict=True):
            own = vectors[:, block.entries]
            centered = np.where(own.any(1, keepdims=True), own - self._means[block.entries], 0.0)
            lengths = np.linalg.norm(centered, axis=1, keepdims=True)
            found[:, block.entries] = scale * centered / np.maximum(lengths, SMALL)
        return unit(found).astype(np.float32)
