"""What a run may take, and what it took: memory is asked for before it is allocated, work is counted as it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

BYTES = 4  # of a float32


class TooCostlyError(Exception):
    """A run would take more than it may; says what of."""


@dataclass
class Cost:
    """Limits and counts of a run.

    Attributes:
      most_bytes: of values in memory at a time, beside the weights.
      most_work: products and sums, and half an entry's worth for what operators merely pass over.
      held: bytes of the values that wait for their readers.
      peak: most bytes that were asked for so far.
      work: done so far.
    """

    most_bytes: int = 2**31
    most_work: int = 2**45
    held: int = 0
    peak: int = 0
    work: int = 0

    def claim(self, shape: Sequence[int], copies: int = 1) -> None:
        """Asks for the memory of arrays of one shape, before they are made.

        Raises:
          TooCostlyError: it is more than there may be.
        """
        needed = self.held + copies * BYTES * prod(map(int, shape))
        if needed > self.most_bytes:
            raise TooCostlyError(f"it needs more than {self.most_bytes / 2**30:.1f} GiB for what its layers return")
        self.peak = max(self.peak, needed)

    def spend(self, work: int) -> None:
        """Counts work before it is done.

        Raises:
          TooCostlyError: it is more than may be done.
        """
        self.work += int(work)
        if self.work > self.most_work:
            raise TooCostlyError(f"one image takes more than {self.most_work / 1e9:,.0f} billion products")
