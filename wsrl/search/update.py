"""Brings an index up to date: what has not changed is taken over, the rest is embedded."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsrl.checkpoint import CheckpointError
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.errors import InputError
from wsrl.readers.declared import BASE, base_names
from wsrl.search.catalog import NOWHERE, Change, Model, Stat
from wsrl.search.commit import clear, commit
from wsrl.search.derive import commit_derived
from wsrl.search.embed import embed_sources
from wsrl.search.file_identity import file_stat, located, relative, whole_digest
from wsrl.search.sources import Named, Source, find_sources
from wsrl.search.store import Store

COMMIT_EVERY = 30  # seconds of embedding that a crash may cost
UNIT = 1e-3  # that the length of a vector may be off by


@dataclass
class Changes:
    """What was done to an index.

    Attributes:
      embedded: models that were embedded.
      unchanged: models that were known, those included whose file was moved.
      removed: models that are no longer there.
      problems: checkpoints that were left out, and why.
      skipped: files that look like weights and are none, such as logs.
      incomplete: a line for each that was embedded without all of its weights.
    """

    embedded: int = 0
    unchanged: int = 0
    removed: int = 0
    problems: list[InputError] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


class Update:
    """Embeds and commits what is new or has changed; made while the lock of the index is held.

    Attributes:
      store: the state that was committed last; None for none.
      changes: what was done.
      sources: see `wsrl.search.manifest.Manifest`.
    """

    def __init__(self, directory: Path, store: Store | None, encoder: Encoder):
        self.directory, self.store, self.encoder = directory, store, encoder
        self.sources = store.manifest.sources if store else ()
        self.changes = Changes()
        self._models = {model.id: model for model in store.catalog.models()} if store else {}
        self._by_stat = {model.stat: model for model in self._models.values() if model.stat}
        self._by_content = {model.content_digest: model for model in self._models.values() if model.content_digest}
        self._sizes = {stat.size for stat in self._by_stat}

    def run(self, names: Sequence[Named], keep: bool, progress: bool) -> Store:
        """Finds, compares, embeds and commits; see `wsrl.search.index.Index.build`."""
        known = {(stat.device, stat.inode) for stat in self._by_stat}
        before = {path: shown for shown, path in (self.sources if keep else ())}
        own = before | {relative(self.directory, name.path): name.shown for name in names}
        self.sources = tuple((shown, path) for path, shown in own.items())
        taken = {name: located(self.directory, model.path) for name, model in self._models.items() if keep}
        sources, self.changes.problems, self.changes.skipped = find_sources(names, known, taken)
        kept: dict[str, tuple[Model, Model]] = {}  # as they were, and as they are
        missing: list[tuple[Source, Stat | None]] = []
        for source in sources:
            if keep:
                self._check_id(source)
            try:
                stat = file_stat(source.path, source.record)
                found = self._known(source, stat)
            except OSError as error:
                self.changes.problems.append(unreadable(source.path, error))
                continue
            except CheckpointError as error:
                self.changes.problems.append(error)
                continue
            if found is None:
                missing.append((source, stat))
            else:
                path = relative(self.directory, source.path)
                metadata = with_base(source.metadata, found.metadata.get(BASE))  # its content is the same
                now = replace(found, id=source.id, path=path, stat=stat, metadata=metadata)
                kept[source.id] = found, now
        self.changes.unchanged = len(kept)
        self._take_over(kept, {source.id for source, _ in missing}, keep)
        embedded = self.embed(missing, progress)
        broken = {source.id for source in sources} - kept.keys() - embedded
        removed = [name for name in self._models if name in broken]
        self.changes.removed += len(removed)
        self.commit([], Change(removed=removed))
        if self.store is None or not self.store.ids:
            first = f" ({self.changes.problems[0]})" if self.changes.problems else ""
            raise InputError(self.directory, f"no checkpoint could be used{first}", "name some that can be read")
        clear(self.directory, self.store.manifest.files)
        return commit_derived(self.directory, self.store)

    def _check_id(self, source: Source) -> None:
        """Raises InputError if the id is that of another model: ids of two zoos may be the same."""
        old = self._models.get(source.id)
        if old and old.path != (new := relative(self.directory, source.path)):
            path = located(self.directory, old.path)
            if Path(path).exists():
                raise InputError(located(self.directory, new), f"has the id of {path}: {source.id!r}", "index it apart")

    def _known(self, source: Source, stat: Stat | None) -> Model | None:
        """The model that was made of the same content with the same hints."""
        if stat is None:
            found = self._models.get(source.id)  # the address says which; to fetch it anew, remove it first
            found = found if found and found.path == source.path else None
        else:
            found = self._by_stat.get(stat)
            if found is None and stat.size in self._sizes and source.record is None:
                found = self._by_content.get(whole_digest(source.path) or "")
        return found if found and _json(found.hints) == _json(source.hints) else None

    def _take_over(self, taken: dict[str, tuple[Model, Model]], missing: set[str], keep: bool) -> None:
        """Commits what has moved and what is gone."""
        changed = [now for was, now in taken.values() if was != now]
        present = taken.keys() | missing
        renamed: dict[str, str] = {}
        for was, now in taken.values():
            gone = was.id not in present and not (keep and Path(located(self.directory, was.path)).exists())
            if gone and was.id not in renamed:
                renamed[was.id] = now.id
        removed = list(renamed) if keep else [name for name in self._models if name not in present]
        self.changes.removed += len(removed) - len(renamed)
        self.commit([], Change(renamed, removed, models=changed))

    def embed(self, missing: Sequence[tuple[Source, Stat | None]], progress: bool) -> set[str]:
        """Embeds checkpoints and commits them from time to time; returns the ids of those that could be used."""
        embedded: set[str] = set()
        pending: list[tuple[Model, Embedded]] = []
        committed = time.monotonic()
        try:
            for model, row in self.embedding(missing, progress):
                pending.append((model, row))
                embedded.add(model.id)
                if time.monotonic() > committed + COMMIT_EVERY:
                    self.commit(pending, Change())
                    pending, committed = [], time.monotonic()
        finally:  # what was embedded before an interrupt is kept
            self.commit(pending, Change())
            self.changes.embedded = len(embedded)
        return embedded

    def embedding(
        self, missing: Sequence[tuple[Source, Stat | None]], progress: bool
    ) -> Iterator[tuple[Model, Embedded]]:
        """Yields the checkpoints that can be used, and notes in `changes` what is wrong with the others."""
        stats = {source.id: stat for source, stat in missing}
        shown = None if progress and missing else True  # None: unless stderr is no terminal
        with tqdm(total=len(missing), desc="embedding", unit="model", disable=shown, mininterval=1.0) as line:
            for source, row in embed_sources(self.encoder, [source for source, _ in missing]):
                line.update()
                stat = stats[source.id]
                row = checked(source, stat, row) if isinstance(row, Embedded) else row
                if isinstance(row, InputError):
                    self.changes.problems.append(row)
                    continue
                if row.incomplete:
                    self.changes.incomplete.append(row.incomplete)
                yield new_model(self.directory, source, stat, row), row

    def commit(self, new: Sequence[tuple[Model, Embedded]], change: Change) -> None:
        """Commits models with their vectors and a change of others, unless that changes nothing."""
        if new or change or (self.store and self.store.manifest.sources != self.sources):
            self.store = commit(self.directory, self.store, self.encoder.hash, new, change, self.sources)


def new_model(directory: Path, source: Source, stat: Stat | None, row: Embedded) -> Model:
    """Returns a model that is to be committed to an index.

    Args:
      directory: of the index.
      source: what was embedded.
      stat: of its file, see `wsrl.search.file_identity.file_stat`.
      row: what the encoder said.
    """
    return Model(
        id=source.id,
        path=relative(directory, source.path),
        stat=stat,
        content_digest=row.content_digest,
        weights_digest=row.weights_digest,
        architecture=row.architecture,
        parameters=row.parameters,
        accuracy=row.accuracy,
        assumed=row.assumed,
        no_function=row.no_function,
        warnings=row.warnings,
        hints=source.hints,
        metadata=with_base(source.metadata, list(row.declared)),
        tensors=tuple(row.tensors),
        place=NOWHERE,
    )


def with_base(metadata: Mapping[str, object], declared: object) -> dict[str, object]:
    """Returns what came with a source, with its base models as a list of names, which is left out if there are none.

    Args:
      metadata: of the source, whose `base_model` counts where it names any.
      declared: names of the models that the file declares as its base.
    """
    names = base_names(metadata.get(BASE)) or base_names(declared)
    others = {key: value for key, value in metadata.items() if key != BASE}
    return {BASE: names, **others} if names else others


def checked(source: Source, stat: Stat | None, row: Embedded) -> Embedded | InputError:
    """Returns the row, or what is wrong with it or with its file."""
    try:
        if file_stat(source.path, source.record) != stat:
            return CheckpointError(source.path, "changed while it was read", "index it again when it is written")
    except OSError as error:
        return unreadable(source.path, error)
    vectors = [row.weights] if row.function is None else [row.weights, row.function]
    if not all(abs(float(np.linalg.norm(vector)) - 1) < UNIT for vector in vectors):
        return CheckpointError(source.path, "its vector is not finite or not of length 1", "leave it out")
    return row


def unreadable(path: str, error: OSError) -> CheckpointError:
    """The error of a file that the machine does not let us read."""
    return CheckpointError(path, f"cannot be read ({error.strerror or error})", "check the path")


def _json(hints: object) -> str:
    return json.dumps(hints, sort_keys=True)
