"""What may be a child of a base: the models of an index, or the checkpoints in a folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.errors import InputError
from wsrl.readers import open_checkpoint
from wsrl.search.facts import Facts
from wsrl.search.file_identity import file_stat, located
from wsrl.search.manifest import MANIFEST
from wsrl.search.model_file import open_model
from wsrl.search.sources import Source, find_sources
from wsrl.search.store import Store


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may be a child.

    Attributes:
      id: of the model.
      path: of its file or folder.
      open: opens it; raises CheckpointError.
      state: changes when the file does.
      metadata: what is known of it.
      architecture, parameters: see `wsrl.embedded.Embedded`; empty and 0 outside of an index, see `described`.
    """

    id: str
    path: str
    open: Callable[[], Checkpoint]
    state: str
    metadata: Mapping[str, object] = field(default_factory=dict)
    architecture: str = ""
    parameters: int = 0


def find_candidates(directory: Path) -> tuple[list[Candidate], list[InputError]]:
    """Returns the models of an index, or the checkpoints of another folder, and what is wrong with some of these.

    Raises:
      InputError: there is no such folder, it holds no checkpoint, or the index is damaged.
    """
    if (directory / MANIFEST).is_file():
        return _of_index(directory), []
    found = find_sources(directory)
    candidates, problems = [], list(found.problems)
    for source in found.sources:
        if source.record is None:
            candidates.append(_of_file(source))
        else:
            problems.append(InputError(source.id, "lies in a shard of many models", "index the zoo and name the index"))
    return candidates, problems


def candidate_of(name: str) -> Candidate:
    """Returns what is named by itself: a query that is none of the candidates."""
    return _of_file(Source(name, name))


def described(candidate: Candidate) -> Candidate:
    """Returns a candidate with the architecture and the number of parameters that its file tells, if no index does."""
    if candidate.parameters:
        return candidate
    try:
        checkpoint = candidate.open()
    except CheckpointError:  # moved since it was read
        return candidate
    architecture = str(checkpoint.config.get("model_type") or "")
    parameters = sum(tensor.size for tensor in checkpoint.tensors.values())
    return replace(candidate, architecture=architecture, parameters=parameters)


def state_of(path: str) -> str:
    """Returns what changes when a checkpoint does: sizes and times of its files; the address of one of the hub."""
    try:
        return str(file_stat(path) or path)
    except OSError:  # it is told when it is opened
        return ""


def _of_file(source: Source) -> Candidate:
    opened = partial(open_checkpoint, source.path)
    return Candidate(source.id, source.path, opened, state_of(source.path), source.metadata)


def _of_index(directory: Path) -> list[Candidate]:
    store = Store(directory)
    candidates = []
    for model, metadata in zip(store.catalog.models(), Facts(store).metadata, strict=True):
        path = located(directory, model.path)
        opened = partial(open_model, directory, model)
        known = (metadata, model.architecture, model.parameters)
        candidates.append(Candidate(model.id, path, opened, state_of(path), *known))
    return candidates
