"""An index whose vectors lie in a vector store."""

import os
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from wsrl.checkpoint import CheckpointError
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder, load_encoder
from wsrl.errors import InputError
from wsrl.search.catalog import Model, Stat
from wsrl.search.embed import embed_sources
from wsrl.search.file_identity import HUB, file_stat, printable_id, whole_digest
from wsrl.search.hit import Hit
from wsrl.search.index import Index
from wsrl.search.question import Explanation, Request
from wsrl.search.repair import Damage
from wsrl.search.sources import Names, Source, as_named, find_sources
from wsrl.search.store import Store
from wsrl.search.update import Changes, checked, new_model, unreadable
from wsrl.vector_stores.connect import connect
from wsrl.vector_stores.row import Row, key_of
from wsrl.vector_stores.search import answer
from wsrl.vector_stores.vector_store import VectorStore
from wsrl.wiring.tree import natural

ROOT = Path("/")  # that paths are relative to: a store has no folder
BATCH = 256  # rows that are written or looked up at once
HASH = 12  # digits of the encoder's hash in the name of a collection

T = TypeVar("T")


class StoreIndex(Index):
    """An index in a vector store; `Index.open` and `Index.build` return one for an address of `wsrl.vector_stores`.

    It adds, removes, searches and lists ids as an index folder does, but
      - by function, scores are cosines of function vectors: neighborhoods are not expanded, accuracies not smoothed;
      - the store is asked for the nearest, within the bounds that conditions set to `parameters`, `size` and
        `predicted_accuracy`; whatever else is asked is decided of these, and more are asked for until enough are left
        (Milvus finds 16,384 at most). A condition on a key that no model has leaves none;
      - `exclude` takes ids alone, and Milvus has no exact search;
      - signatures of tensors are not kept, so `lineage`, `duplicates`, `map` and the like need an index folder.

    Attributes:
      directory: the address.
      changes, explanation: see `Index`.
    """

    def __init__(self, store: VectorStore, collection: str, encoder: Encoder | None):  # that of `Index` reads a folder
        self.vectors, self.collection = store, collection
        self.directory = store.address  # pyright: ignore[reportAttributeAccessIssue]
        self.changes = Changes()
        self.explanation: Explanation | None = None
        self._encoder = encoder
        self._closing = weakref.finalize(self, store.close)

    @property
    def _store(self) -> Store:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise InputError(self.directory, "is a vector store, which cannot do this", "use an index folder")

    @classmethod
    def open(cls, directory: str | Path, encoder: Encoder | None = None) -> "StoreIndex":
        """Opens an index of a store; see `Index.open`. A local store is held until `close`.

        Raises:
          InputError: there is no index, or none of this encoder; or see `wsrl.vector_stores.vector_store.connect`.
        """
        store, name = connect(str(directory), make=False)
        there = [found for found in store.collections() if found.startswith(f"{name}_")]
        if not there:
            store.close()
            raise InputError(store.address, f"holds no index {name!r}", "make one with `wsrl index`")
        if encoder is None and len(there) > 1:
            encoder = load_encoder()
        wanted = there[0] if encoder is None else f"{name}_{encoder.hash[:HASH]}"
        if wanted not in there:
            store.close()
            raise _other(store.address, there[0], wanted)
        return cls(store, wanted, encoder)

    @classmethod
    def made(cls, directory: str | Path, encoder: Encoder) -> "StoreIndex":
        """Opens an index for writing, which is made if it is not there."""
        store, name = connect(str(directory), make=True)
        collection = f"{name}_{encoder.hash[:HASH]}"
        if collection not in store.collections():
            store.create(collection, encoder.weights_dim, encoder.function_dim)
        return cls(store, collection, encoder)

    @classmethod
    def build(cls, encoder: Encoder, sources: Names, directory: str | Path, progress: bool = False) -> "StoreIndex":
        """Makes an index of all checkpoints that sources stand for, or brings one up to date; see `Index.build`."""
        index = cls.made(directory, encoder)
        index._write(encoder, sources, progress, keep=False)
        return index

    def add(self, encoder: Encoder, sources: Names, progress: bool = False) -> None:
        """Adds all checkpoints that sources stand for, and keeps all other models; see `Index.add`."""
        self._check_encoder(encoder)
        self._write(encoder, sources, progress, keep=True)

    def _write(self, encoder: Encoder, sources: Names, progress: bool, keep: bool) -> None:
        self.changes = changes = Changes()
        found, problems, changes.skipped = find_sources(as_named(sources))
        changes.problems += problems
        missing: list[tuple[Source, Stat | None]] = []
        for group in _groups(found):
            known = self._known([source.id for source in group])
            for source in group:
                path = source.path if source.path.startswith(HUB) else os.path.abspath(source.path)
                source = replace(source, path=path)
                try:
                    stat = file_stat(source.path, source.record)
                except OSError as error:
                    changes.problems.append(unreadable(source.path, error))
                    continue
                if _unchanged(known.get(source.id), source, stat):
                    changes.unchanged += 1
                else:
                    missing.append((source, stat))
        if not keep:
            here = {source.id for source in found}
            held = self.vectors.rows(self.collection)
            self._forget([row.model.id for row in held if row.model.id not in here])
        rows = self._embedded(encoder, missing, progress)
        self.put(rows)
        if not len(self):
            first = f" ({changes.problems[0]})" if changes.problems else ""
            raise InputError(self.directory, f"no checkpoint could be used{first}", "name some that can be read")

    def _embedded(
        self, encoder: Encoder, missing: Sequence[tuple[Source, Stat | None]], progress: bool
    ) -> Iterator[Row]:
        """The rows of checkpoints that can be used; what is wrong with the others goes into `changes`."""
        stats = {source.id: stat for source, stat in missing}
        rows = embed_sources(encoder, [source for source, _ in missing])
        shown = None if progress and missing else True  # None: unless stderr is no terminal
        for source, row in tqdm(rows, "embedding", len(missing), disable=shown, unit="model", mininterval=1.0):
            row = checked(source, stats[source.id], row) if isinstance(row, Embedded) else row
            if isinstance(row, InputError):
                self.changes.problems.append(row)
                continue
            if row.incomplete:
                self.changes.incomplete.append(row.incomplete)
            yield Row.of(stored_model(source, stats[source.id], row), row)

    def become(self, rows: Iterable[tuple[Model, Embedded]]) -> None:
        """Writes what is new or has changed of the models that the index is to hold, and removes all others."""
        known = {row.model.id: row.model for row in self.vectors.rows(self.collection)}
        seen: set[str] = set()

        def missing() -> Iterator[Row]:
            for model, row in rows:
                seen.add(model.id)
                if known.get(model.id) == replace(model, tensors=()):
                    self.changes.unchanged += 1
                else:
                    yield Row.of(model, row)

        self.put(missing())
        self._forget([name for name in known if name not in seen])

    def _forget(self, names: Sequence[str]) -> None:
        for group in _groups(names):
            self.vectors.delete(self.collection, [key_of(name) for name in group])
        self.changes.removed = len(names)

    def put(self, rows: Iterable[Row]) -> None:
        """Writes rows, some hundred at a time, and counts them in `changes`; one that is too long is left out."""
        for group in _groups(self._short(rows)):
            self.vectors.put(self.collection, group)
            self.changes.embedded += len(group)

    def _short(self, rows: Iterable[Row]) -> Iterable[Row]:
        for row in rows:
            try:
                row.text()
            except InputError as error:
                self.changes.problems.append(error)
                continue
            yield row

    def remove(self, ids: Collection[str]) -> None:
        """Removes models; raises InputError if there is no model of an id."""
        names = list(dict.fromkeys(map(printable_id, ids)))
        known = self._known(names)
        if lacking := [name for name in names if name not in known]:
            raise InputError(lacking[0], f"is no model of the index {self.directory}", "check the name")
        self.changes = Changes()
        self._forget(names)

    @property
    def ids(self) -> list[str]:
        """Of the models, in natural order."""
        return sorted((row.model.id for row in self.vectors.rows(self.collection)), key=natural)

    @property
    def sources(self) -> list[str]:
        """A store does not note what it was made of."""
        return []

    def __len__(self) -> int:
        return self.vectors.counts(self.collection)[0]

    def get(self, name: str) -> Embedded:
        """Returns what the encoder said of a model; raises InputError if there is no such id."""
        return self._row(name, vectors=True).embedded()

    def metadata(self, name: str) -> dict[str, object]:
        """Returns what came with a model; raises InputError if there is no such id."""
        return dict(self._row(name, vectors=False).model.metadata)

    def info(self) -> dict[str, object]:
        """Returns what the index holds, as `Index.info` does; of the encoder the first digits, and no bytes."""
        models, functions = self.vectors.counts(self.collection)
        about = {"directory": str(self.directory), "encoder": self.collection.rpartition("_")[2], "models": models}
        return {**about, "functions": functions, "bytes": 0, "commits": 0, "sources": []}

    def _answer(self, request: Request) -> tuple[list[Hit], Explanation]:
        if isinstance(request.exclude, np.ndarray):
            raise InputError("exclude", "is a mask, and a store has no places", "give ids")
        return answer(self.vectors, self.collection, replace(request, exclude=frozenset(request.exclude)))

    def verify(self) -> list[Damage]:
        """Raises InputError: a store keeps watch over its files itself."""
        _ = self._store
        return []

    def close(self) -> None:
        """Gives a local store back to other processes, which otherwise happens when the index is no longer used."""
        self._closing()

    def _known(self, names: Sequence[str]) -> Mapping[str, Model]:
        found = self.vectors.get(self.collection, [key_of(name) for name in names], vectors=False)
        return {row.model.id: row.model for row in found}

    def _row(self, name: str, vectors: bool) -> Row:
        found = self.vectors.get(self.collection, [key_of(printable_id(name))], vectors)
        if not found:
            raise InputError(name, f"is no model of the index {self.directory}", "check the name")
        return found[0]

    def row(self, name: str, function: bool = True) -> Embedded:
        """As `wsrl.search.query_rows.QueryRows.row`."""
        there = not name.startswith(HUB) and Path(name).exists()
        if there:
            digest = whole_digest(name)
            found = self.vectors.of_digest(self.collection, "content_digest", digest) if digest else []
        else:
            found = self.vectors.get(self.collection, [key_of(printable_id(name))], vectors=True)
        if found:
            return found[0].embedded()
        if not there and not name.startswith(HUB):
            reason = f"is neither a checkpoint nor a model of the index {self.directory}"
            raise InputError(name, reason, "check the name")
        if self._encoder is None:
            self._check_encoder(encoder := load_encoder())
            self._encoder = encoder
        row = next(iter(self._encoder.embed([name], function=function)))
        if isinstance(row, CheckpointError):
            raise row
        return row

    def _check_encoder(self, encoder: Encoder) -> None:
        if encoder.hash[:HASH] != self.collection.rpartition("_")[2]:
            raise _other(str(self.directory), self.collection, encoder.hash[:HASH])


def stored_model(source: Source, stat: Stat | None, row: Embedded) -> Model:
    """Returns a model with the whole path of its file, as a store keeps it; see `new_model`."""
    path = source.path if source.path.startswith(HUB) else os.path.abspath(source.path)
    return replace(new_model(ROOT, source, stat, row), path=path)


def _groups(rows: Iterable[T]) -> Iterator[list[T]]:
    """Cuts what is written or looked up into groups."""
    remaining = iter(rows)
    while group := list(islice(remaining, BATCH)):
        yield group


def _unchanged(known: Model | None, source: Source, stat: Stat | None) -> bool:
    return known is not None and (known.path, known.stat, known.hints) == (source.path, stat, source.hints)


def _other(address: str, there: str, wanted: str) -> InputError:
    reason = f"was filled by the encoder {there.rpartition('_')[2]}, not by {wanted.rpartition('_')[2]}"
    return InputError(address, reason, "name that encoder by --encoder, or index again under another name")
