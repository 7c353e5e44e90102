"""The weights that a sweep reads: of one model from its file, piece by piece, or of several that are in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from wsrl.canonical.rows import CHUNK, forget_pages, read_whole, row_chunks
from wsrl.checkpoint import Tensor


@dataclass(frozen=True)
class StreamedWeights:
    """One model, read piece by piece.

    Attributes:
      canonical: its tensors in canonical form.
      stored: its tensors as they lie in the file.
      entries: numbers read at a time, if a row has not more.
    """

    canonical: Mapping[str, Tensor]
    stored: Mapping[str, Tensor]
    entries: int = CHUNK

    def whole(self, tensor: str) -> np.ndarray:
        """Returns a tensor."""
        return read_whole(self.canonical[tensor])[None]

    def pieces(self, tensor: str) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields pieces, and forgets the file's pages after them."""
        for first, last, rows in row_chunks(self.canonical[tensor], entries=self.entries):
            yield first, last, rows[None]
        forget_pages(self.stored[tensor])


@dataclass(frozen=True)
class StackedWeights:
    """Several models of one claim in memory: tensors in canonical form, [models, *shape]."""

    tensors: Mapping[str, np.ndarray]

    def whole(self, tensor: str) -> np.ndarray:
        """Returns a tensor."""
        return self.tensors[tensor]

    def pieces(self, tensor: str) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields the tensor as one piece."""
        yield 0, self.tensors[tensor].shape[1], self.tensors[tensor]


Weights = StreamedWeights | StackedWeights
