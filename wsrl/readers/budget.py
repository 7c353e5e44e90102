"""Bounds what is made of a file's description, so that many tiny entries do not fill the memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from wsrl.checkpoint import CheckpointError
from wsrl.readers.mapped import memory_limit

# Bytes that Python takes for what a description holds, about.
OBJECT = 1024  # a tensor without its entries, a node, a table
VIEW = 100  # a view of bytes in the file
TEXT = 64  # a text, beside its letters
NUMBER = 36
DESCRIPTION = 16 << 20  # bytes that it may take beyond memory_limit: it is there before any tensor is read

T = TypeVar("T")


class Budget:
    """Memory that may be spent on the description of a checkpoint of `size` bytes."""

    def __init__(self, path: Path, size: int):
        self.path = path
        self._left = memory_limit(size) + DESCRIPTION

    def spend(self, bytes_: int) -> None:
        """Takes bytes off.

        Raises:
          CheckpointError: there are none left.
        """
        self._left -= bytes_
        if self._left < 0:
            reason = "describes more nodes, tensors and values than a file of its size can need"
            raise CheckpointError(self.path, reason, "write or download it again")

    def each(self, entries: Iterable[T]) -> Iterator[T]:
        """Yields the entries and takes an object off for each."""
        for entry in entries:
            self.spend(OBJECT)
            yield entry
