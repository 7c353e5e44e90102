"""The index of a folder of checkpoints: built once, brought up to date, and searched."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder, load_encoder
from wsrl.errors import InputError
from wsrl.readers import open_checkpoint
from wsrl.search.catalog import Change, Model
from wsrl.search.commit import commit, commit_neighbors, writing
from wsrl.search.hit import Hit
from wsrl.search.manifest import MANIFEST
from wsrl.search.searcher import Searcher
from wsrl.search.sources import HUB, file_stat, located, printable_id, whole_digest
from wsrl.search.store import Store
from wsrl.search.update import Changes, Update

BY = ("auto", "weights", "function")
Names = str | Path | Iterable[str | Path]


class Functional(NamedTuple):
    """Models that have a function vector.

    Attributes:
      ids, architectures, accuracies: see `wsrl.embedded.Embedded`.
      vectors: of length 1.
      metadata, paths: see `wsrl.search.hit.Hit`.
    """

    ids: list[str]
    architectures: list[str]
    vectors: Float32[np.ndarray, "n dim"]
    metadata: list[dict[str, object]]
    accuracies: list[float | None]
    paths: list[str]


class Index:
    """Models with their vectors and what is known of them, in a folder. Get one by `build` or `open`.

    One process may write while others read; each reader sees the state that it opened.

    Attributes:
      directory: the folder.
      changes: what the last `build`, `add` or `remove` did; empty after `open`.
    """

    def __init__(self, store: Store, encoder: Encoder | None = None):
        self.directory = store.directory
        self.changes = Changes()
        self._encoder = encoder
        self._become(store)

    def _become(self, store: Store) -> None:
        """Goes over to another state of the index."""
        self._store, self._searcher = store, Searcher(store)

    @classmethod
    def build(cls, encoder: Encoder, sources: Names, directory: str | Path, progress: bool = False) -> "Index":
        """Makes an index of all checkpoints that sources stand for, or brings one up to date.

        Files that the index knows and that have not changed are not embedded again, even if they were moved. Models
        that the sources no longer hold are removed. Checkpoints that cannot be used are left out and stand in
        `changes.problems`. What is embedded is committed from time to time: an interrupted call goes on from there.

        Args:
          encoder: makes the vectors.
          sources: see `wsrl.search.sources.find_sources`.
          directory: of the index, made if it is not there.
          progress: show a progress line on stderr.

        Raises:
          InputError: the folder is of something else, damaged, of another encoder or being written by another process;
            a source is not there, or no checkpoint can be used.
        """
        return cls._written(encoder, sources, Path(directory), progress, keep=False)

    def add(self, encoder: Encoder, sources: Names, progress: bool = False) -> None:
        """Adds all checkpoints that sources stand for, as `build` does, and keeps all other models."""
        written = self._written(encoder, sources, self.directory, progress, keep=True)
        self.changes, self._encoder = written.changes, encoder
        self._become(written._store)

    @classmethod
    def _written(cls, encoder: Encoder, sources: Names, directory: Path, progress: bool, keep: bool) -> "Index":
        with writing(directory):
            store = Store(directory) if (directory / MANIFEST).exists() else None
            if store:
                _check_encoder(store, encoder)
            update = Update(directory, store, encoder)
            index = cls(update.run(sources, keep, progress), encoder)
        index.changes = update.changes
        return index

    @classmethod
    def open(cls, directory: str | Path, encoder: Encoder | None = None) -> "Index":
        """Opens an index for reading.

        Args:
          directory: of the index.
          encoder: embeds queries that are not in the index; by default that of the package, when it is needed.

        Raises:
          InputError: there is no index, it is damaged or of another encoder.
        """
        store = Store(Path(directory))
        if encoder is not None:
            _check_encoder(store, encoder)
        return cls(store, encoder)

    def remove(self, ids: Collection[str]) -> None:
        """Removes models.

        Raises:
          InputError: there is no model of an id, or another process writes.
        """
        for name in ids:
            self._model(name)
        self._commit(Change(removed=list(dict.fromkeys(ids))))
        self.changes = Changes(removed=len(set(ids)))

    def annotate(self, name: str, notes: Mapping[str, str | None]) -> None:
        """Notes what the user knows of a model: it stands in the metadata of hits, above what came with the file.

        Args:
          name: id of the model.
          notes: by key; None takes a note away.

        Raises:
          InputError: there is no such model, or another process writes.
        """
        self.annotate_all({name: notes})

    def annotate_all(self, notes: Mapping[str, Mapping[str, str | None]]) -> None:
        """Notes something of many models at once, as `annotate` does; the keys of `notes` are ids."""
        for name in notes:
            self._model(name)
        changes = {(name, key): value for name, own in notes.items() for key, value in own.items()}
        self._commit(Change(annotations=changes))

    def _commit(self, change: Change) -> None:
        with writing(self.directory):
            store = Store(self.directory)  # it may have changed since it was opened
            committed = commit(self.directory, store, store.manifest.encoder, [], change)
            self._become(commit_neighbors(self.directory, committed))

    @property
    def ids(self) -> list[str]:
        """Of the models, in the order of the index."""
        return list(self._store.ids)

    def __len__(self) -> int:
        return len(self._store.ids)

    def get(self, name: str) -> Embedded:
        """Returns what the encoder said of a model. Raises InputError if there is no such id."""
        return self._store.embedded(self._model(name))

    def checkpoint(self, name: str) -> Checkpoint:
        """Opens the file of a model, with the hints that it was embedded with as metadata.

        Raises:
          InputError: there is no model of this id, or its file cannot be used.
        """
        model = self._model(name)
        path = located(self.directory, model.path)
        if model.stat is not None and model.stat.record is not None:
            from wsrl.zoo.shards import read_record  # reads a format that few need
            from wsrl.zoo.storage import parse_checkpoint

            record = model.stat.record
            found = parse_checkpoint(read_record(Path(path), record), f"{path}, record {record}")
            if isinstance(found, CheckpointError):
                raise found
        else:
            found = open_checkpoint(path)
        return replace(found, metadata={**found.metadata, **model.hints})

    def functional(self) -> Functional:
        """Returns all models that have a function vector."""
        store, catalog = self._store, self._store.catalog
        models = [model for model in catalog.models() if model.place.function is not None]
        return Functional(
            [model.id for model in models],
            [model.architecture for model in models],
            store.functions,
            [{**model.metadata, **catalog.annotations(model.id)} for model in models],
            [model.accuracy for model in models],
            [located(self.directory, model.path) for model in models],
        )

    def info(self) -> dict[str, object]:
        """Returns what the index holds: encoder, models, those with a function vector, bytes, commits."""
        manifest = self._store.manifest
        return {
            "directory": str(self.directory),
            "encoder": manifest.encoder,
            "models": manifest.models,
            "functions": manifest.functions,
            "bytes": sum(size for size, _ in manifest.files.values()),
            "commits": manifest.generation,
        }

    def verify(self) -> list[str]:
        """Reads all files of the index and returns a line for each thing that is wrong; none if all is well."""
        return self._store.problems()

    def search(
        self,
        query: str | Path | Embedded,
        k: int = 10,
        by: str = "auto",
        exclude: Bool[np.ndarray, " n"] | Collection[str] = (),
        exact: bool = False,
    ) -> list[Hit]:
        """Finds the models that are most similar to a query.

        Args:
          query: a checkpoint (a file that is in the index is not embedded again), an id of the index, or a row.
          k: number of hits, at least 1.
          by: "weights" asks who is related, "function" who does the same; "auto" takes the function where the query and
            a model of the index have one, and lets models of the same weights come first in any case.
          exclude: models that are left out, as a mask or by their ids; they do not count as neighbors either.
          exact: compare with all models, however many there are.

        Returns:
          At most k hits, best first.

        Raises:
          InputError: the query can't be used, has no function vector where one is asked for, or an option is wrong.
        """
        if k < 1:
            raise InputError("k", f"is {k}", "ask for at least one hit")
        if by not in BY:
            raise InputError("by", f"is {by!r}", f"give one of {', '.join(BY)}")
        asked = query if isinstance(query, Embedded) else self._resolve(str(query), function=by != "weights")
        return self._searcher.search(asked, k, by, self._mask(exclude), exact)

    def _mask(self, exclude: Bool[np.ndarray, " n"] | Collection[str]) -> Bool[np.ndarray, " n"] | None:
        if isinstance(exclude, np.ndarray):
            if exclude.shape != (len(self),):
                raise InputError("exclude", f"is a mask of {exclude.shape} for {len(self)} models", "give one a model")
            return exclude if exclude.any() else None
        mask = np.zeros(len(self), bool)
        for name in exclude:
            self._model(name)
            mask[self._searcher.place[name]] = True
        return mask if mask.any() else None

    def _model(self, name: str) -> Model:
        model = self._store.catalog.get(printable_id(name))
        if model is None:
            raise InputError(name, f"is no model of the index {self.directory}", "check the name")
        return model

    def _resolve(self, name: str, function: bool) -> Embedded:
        """What is known of a query: from the index if that holds the file or the id, else from the encoder."""
        catalog, there = self._store.catalog, Path(name).exists()
        if there and not name.startswith(HUB):
            stat = file_stat(name)
            model = catalog.unchanged(stat) if stat else None
            if model is None and stat and catalog.of_size(stat.size) and (digest := whole_digest(name)):
                model = catalog.of_content(digest)
        else:
            model = catalog.get(printable_id(name))
        if model is not None:
            return self._store.embedded(model)
        if not there and not name.startswith(HUB):
            raise InputError(
                name, f"is neither a checkpoint nor a model of the index {self.directory}", "check the name"
            )
        if self._encoder is None:
            encoder = load_encoder()
            _check_encoder(self._store, encoder)
            self._encoder = encoder
        row = next(iter(self._encoder.embed([name], function=function)))
        if isinstance(row, Embedded):
            return row
        raise row


def _check_encoder(store: Store, encoder: Encoder) -> None:
    if encoder.hash != store.manifest.encoder:
        reason = f"was filled by the encoder {store.manifest.encoder[:12]}, not by {encoder.hash[:12]}"
        raise InputError(store.directory, reason, "name that encoder by --encoder, or index again into a new folder")
