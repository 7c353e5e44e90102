"""What tells a family of image models, in the naming of one library, from others."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from wsrl.forward.families.module import Module
from wsrl.forward.families.network import Renames
from wsrl.forward.families.value import Value


@dataclass(frozen=True)
class Family:
    """A family in the naming of one library.

    Attributes:
      name: for messages.
      signature: regular expressions, each of which is the whole name of some tensor, after renaming.
      write: writes the network down and returns its answers, [outputs].
      renames: from the library's naming to the one that `write` reads.
      beside: regular expression of tensors that have no part in the answers, such as heads that only training needs.
    """

    name: str
    signature: tuple[str, ...]
    write: Callable[[Module], Value]
    renames: Renames = ()
    beside: str = "$."

    def shows_in(self, names: Collection[str]) -> bool:
        """Whether the signature is among names."""
        return all(any(re.fullmatch(pattern, name) for name in names) for pattern in self.signature)

    def is_beside(self, name: str) -> bool:
        """Whether a tensor has no part in the answers."""
        return re.match(self.beside, name) is not None
