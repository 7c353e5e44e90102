"""Bounds what is made of a file's description, so that many tiny entries do not fill the memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from wsrl.checkpoint import CheckpointError
from wsrl.readers.mapped import memory_limit

OBJECT = 1024  # bytes that a node, a tensor without its entries or a value takes in memory, about

T = TypeVar("T")


class Budget:
    """Counts the objects that are made of a file of `size` bytes."""

    def __init__(self, path: Path, size: int):
        self.path = path
        self.objects = memory_limit(size) // OBJECT

    def spend(self, objects: int) -> None:
        """Takes `objects` off.

        Raises:
          CheckpointError: there are none left.
        """
        self.objects -= objects
        if self.objects < 0:
            reason = "describes more nodes, tensors and values than a file of its size can need"
            raise CheckpointError(self.path, reason, "write or download it again")

    def each(self, entries: Iterable[T]) -> Iterator[T]:
        """Yields the entries and takes one off for each."""
        for entry in entries:
            self.spend(1)
            yield entry
