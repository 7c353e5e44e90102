"""Values in reach of modules while the tree of modules is run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wsrl.wiring.dims import Dim, Value, size_of, tie_values, view
from wsrl.wiring.tree import Node


@dataclass(frozen=True)
class Loose:
    """What a module returns of which only the possible sizes are known: channels that are permuted alike in blocks.

    Attributes:
      base: units of a block.
      sizes: one of which is the size of what is returned.
    """

    base: Dim
    sizes: tuple[int, ...]

    def value(self, size: int) -> Value | None:
        """The value of a size; None if it has another."""
        return (view(self.base, outer=size // self.base.size),) if size in self.sizes else None


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
      widened: whether it comes from a transposed convolution.
      loose: what else it may be, where its size is not certain.
      source: the value within a block that the block returned as this one.
      states: what the layers of a recurrent network before its last one return.
      size: entries of the value.
    """

    value: Value
    read: bool = False
    spatial: bool = False
    dense: bool = False
    heads: bool = False
    returned: bool = False
    looked_up: bool = False
    widened: bool = False
    loose: Loose | None = None
    env: "Env | None" = None
    source: "Entry | None" = None
    states: tuple[Value, ...] = ()
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = size_of(self.value)


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
        env: Env = self
        nearest = True  # whether nothing nearer may be meant
        while True:
            if env.only_last:
                found = [e for e in env.entries[-1:] if e.size == size]
            elif env.entries:
                found = [e for e in env.entries if e.size == size]
                if found and env.inputs:
                    found += [e for e in env.inputs if e.size == size]
            else:
                found = [e for e in env.inputs if e.size == size] if env.inputs else []
            found = found or (env._loosened(size) if nearest else [])
            if found or (env.only_last and env.entries) or env.unknown or env.parent is None:
                return found
            nearest = nearest and not env.entries
            env = env.parent

    def _loosened(self, size: int) -> list[Entry]:
        """The newest entry, in another size that it may have."""
        last = self.entries[-1] if self.entries else None
        value = last.loose.value(size) if last is not None and last.loose is not None else None
        if last is None or value is None:
            return []
        found = self.add(value, spatial=True, loose=last.loose)
        found.read = True
        return [found]

    def everywhere(self, size: int) -> list[Entry]:
        """Entries of a size here and all the way up."""
        own = [e for e in self.entries if e.size == size]
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
        env: Env | None = self
        while env is not None and not env.unknown:
            if env.only_last and env.entries:
                return False
            env = env.parent
        return env is not None

    def add(self, value: Value, source: Entry | None = None, loose: Loose | None = None, **more: Any) -> Entry:
        """Puts a new value in reach."""
        entry = Entry(value, env=self, source=source, loose=loose, **more)
        self.entries.append(entry)
        self.made.append(entry)
        return entry


def merge(entries: Iterable[Entry]) -> None:
    """Ties values of one size."""
    first: dict[int, Entry] = {}
    for entry in entries:
        if not entry.heads:
            other = first.setdefault(entry.size, entry)
            if other is not entry:
                tie_values(other.value, entry.value)


def only_scales(inner: Env, read_before: Mapping[int, bool]) -> bool:
    """Whether a block only scales what it reads; then its value is tied to that, and nothing counts as read.

    Args:
      inner: where the block's modules have run.
      read_before: of entries, by their `id`, whether they had been read before.
    """
    if not (inner.inputs and inner.entries) or inner.is_unknown():
        return False
    sources = [e for e in inner.inputs if e.size == inner.entries[-1].size]
    if not sources:
        return False
    tie_values(sources[0].value, inner.entries[-1].value)
    for entry in inner.entries + sources:
        entry.read = read_before.get(id(entry), True)
    return True
