"""Values in reach of modules while the tree of modules is run."""

from dataclasses import dataclass, field

from wsrl.wiring.dims import Value, size_of
from wsrl.wiring.tree import Node


@dataclass(eq=False)
class Entry:
    """A value in reach of modules.

    Attributes:
      value: dims, one after the other.
      read: whether a module has read it.
      spatial, dense: whether it comes from a convolution, from a dense layer.
      heads: whether it is the result of attention that only an output projection reads.
      returned: whether a member of a list returns it.
      env: where it was put in reach.
      looked_up: whether it comes from an embedding.
      source: the value within a block that the block returned as this one.
    """

    value: Value
    read: bool = False
    spatial: bool = False
    dense: bool = False
    heads: bool = False
    returned: bool = False
    looked_up: bool = False
    env: "Env | None" = None
    source: "Entry | None" = None


@dataclass(eq=False)
class Env:
    """Values in reach, newest last.

    Attributes:
      parent: where to look further; None at the root.
      only_last: only the newest value is in reach (members of a list).
      unknown: values of any size may flow here.
      inputs: entries of outer environments that were read from here.
      made: all entries of all environments.
      node: the module whose children run here.
    """

    parent: "Env | None" = None
    entries: list[Entry] = field(default_factory=list)
    only_last: bool = False
    unknown: bool = False
    inputs: list[Entry] = field(default_factory=list)
    made: list[Entry] = field(default_factory=list)
    node: Node | None = None

    def __post_init__(self) -> None:
        if self.parent is not None:
            self.made = self.parent.made

    @property
    def outermost(self) -> bool:
        """Whether the root's own modules run here."""
        return self.parent is not None and self.parent.parent is None

    def visible(self, size: int) -> list[Entry]:
        """Entries of a size here, or else further up."""
        entries = self.entries[-1:] if self.only_last else self.entries + self.inputs
        found = [e for e in entries if size_of(e.value) == size]
        if not self.only_last and self.entries and not any(e in self.entries for e in found):
            found = []
        if found or (self.only_last and self.entries) or self.unknown or self.parent is None:
            return found
        return self.parent.visible(size)

    def everywhere(self, size: int) -> list[Entry]:
        """Entries of a size here and all the way up."""
        own = [e for e in self.entries if size_of(e.value) == size]
        return own + (self.parent.everywhere(size) if self.parent else [])

    def reachable(self) -> list[Entry]:
        """All entries in reach."""
        return self.entries + (self.parent.reachable() if self.parent and not self.unknown else [])

    def last(self) -> Entry | None:
        """The newest entry in reach."""
        if self.entries or self.unknown or self.parent is None:
            return self.entries[-1] if self.entries else None
        return self.parent.last()

    def is_unknown(self) -> bool:
        """Whether anything may flow here."""
        known = self.only_last and self.entries
        return self.unknown or (not known and self.parent is not None and self.parent.is_unknown())

    def add(self, value: Value, source: Entry | None = None, **more: bool) -> Entry:
        """Puts a new value in reach."""
        entry = Entry(value, env=self, source=source, **more)
        self.entries.append(entry)
        self.made.append(entry)
        return entry
