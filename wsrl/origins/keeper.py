"""Which of several copies to keep, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.origins.disk import OnDisk
from wsrl.origins.precision import main_type, precision
from wsrl.search.catalog import Model

HUB_CACHE = "models--"  # how a folder of the cache of a hub begins
CONFIGS = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Copy:
    """A model of an index, with what decides whether to keep it.

    Attributes:
      model: in the index.
      path: of its file or folder, or its address.
      files: that hold its weights; none where they are not on this machine.
      open: reads its header.
      reference, preferred: whether it lies in a folder that is to stay as it is, or in one that is to be kept first.
    """

    model: Model
    path: str
    files: tuple[OnDisk, ...]
    open: Callable[[], Checkpoint]
    reference: bool = False
    preferred: bool = False

    @property
    def removable(self) -> bool:
        """Whether a plan may name it: an own file, or a folder of such, that no one asked to leave alone."""
        shard = self.model.stat is not None and self.model.stat.record is not None
        return bool(self.files) and not (self.reference or shard or any(file.linked for file in self.files))

    @property
    def bytes(self) -> int:
        """Of its files."""
        return sum(file.size for file in self.files)

    @cached_property
    def stored(self) -> tuple[str, float]:
        """The type of most of its numbers, and the bits in which they are known."""
        try:
            tensors = self.open().tensors
            return main_type(tensors), precision(tensors)
        except CheckpointError:
            return "", 0.0


@dataclass(frozen=True)
class Criterion:
    """A reason to keep a copy rather than another; the larger value wins."""

    why: str
    value: Callable[[Copy], float]


def _named_by_hub(copy: Copy) -> bool:
    return copy.path.startswith("hf://") or any(part.startswith(HUB_CACHE) for part in Path(copy.path).parts)


def _has_config(copy: Copy) -> bool:
    folder = Path(copy.path) if Path(copy.path).is_dir() else Path(copy.path).parent
    return any((folder / name).is_file() for name in CONFIGS)


CRITERIA = (  # in this order
    Criterion("it lies in a reference folder", lambda copy: copy.reference),
    Criterion("it lies in a folder to keep", lambda copy: copy.preferred),
    Criterion("it has the highest precision", lambda copy: copy.stored[1]),
    Criterion("it holds the most numbers", lambda copy: copy.model.parameters),
    Criterion("a hub names it", _named_by_hub),
    Criterion("a configuration lies beside it", _has_config),
    Criterion("it is the oldest", lambda copy: -min((file.mtime for file in copy.files), default=0)),
)


def rank(copies: Sequence[Copy]) -> list[Copy]:
    """Returns the copies, the one to keep first; of equal ones the shortest name, and the first by alphabet."""
    return sorted(copies, key=lambda copy: (*(-c.value(copy) for c in CRITERIA), len(copy.model.id), copy.model.id))


def why_first(ranked: Sequence[Copy]) -> str:
    """Returns the reason why the first of ranked copies is the one to keep."""
    first, *others = ranked
    for criterion in CRITERIA:
        if any(criterion.value(first) > criterion.value(other) for other in others):
            return criterion.why
    return "nothing tells them apart but their names"
