"""The index of a folder of checkpoints: built once, brought up to date, and searched."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from wsrl.checkpoint import Checkpoint
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.errors import InputError
from wsrl.search.address import is_address
from wsrl.search.catalog import Change, Model
from wsrl.search.commit import commit, writing
from wsrl.search.conditions import fulfilling, order
from wsrl.search.derive import commit_derived
from wsrl.search.export import export_models
from wsrl.search.facts import ALSO, Facts, check_note
from wsrl.search.file_identity import HUB, located, printable_id
from wsrl.search.functional import Functional, functional_models
from wsrl.search.hit import Hit
from wsrl.search.manifest import MANIFEST
from wsrl.search.model_file import open_model
from wsrl.search.query_rows import QueryRows
from wsrl.search.question import Explanation, Question, Request
from wsrl.search.repair import Damage, Repaired, find_damage, repair
from wsrl.search.searcher import Searcher
from wsrl.search.sources import Named, Names, as_named
from wsrl.search.store import Store
from wsrl.search.update import Changes, Update
from wsrl.text import printable

BY = ("auto", "weights", "function")
ARCHITECTURES = ("any", "same", "other")
Queries = str | Path | Embedded | Iterable[str | Path | Embedded]


class Index:
    """Models with their vectors and what is known of them, in a folder. Get one by `build` or `open`.

    One process may write while others read; each reader sees the state that it opened.

    Attributes:
      directory: the folder.
      changes: what the last `build`, `add`, `update` or `remove` did; empty after `open`.
      explanation: how the last search came to its answer; None before.
    """

    def __init__(self, store: Store, encoder: Encoder | None = None):
        self.directory = store.directory
        self.changes = Changes()
        self.explanation: Explanation | None = None
        self._encoder = encoder
        self._become(store)

    def _become(self, store: Store) -> None:
        """Goes over to another state of the index."""
        before = getattr(self, "_searcher", None)
        self._store, self._searcher = store, Searcher(store, before)
        self._queries, self._facts = QueryRows(store, self._encoder), Facts(store)

    @classmethod
    def build(cls, encoder: Encoder, sources: Names, directory: str | Path, progress: bool = False) -> "Index":
        """Makes an index of all checkpoints that sources stand for, or brings one up to date.

        Files that the index knows and that have not changed are not embedded again, even if they were moved. Models
        that the sources no longer hold are removed. Checkpoints that cannot be used are left out and stand in
        `changes.problems`. What is embedded is committed from time to time: an interrupted call goes on from there.

        Args:
          encoder: makes the vectors.
          sources: see `wsrl.search.sources.find_sources`.
          directory: of the index, made if it is not there; or the address of a vector store, see `wsrl.vector_stores`.
          progress: show a progress line on stderr.

        Raises:
          InputError: the folder is of something else, damaged, of another encoder or being written by another process;
            a source is not there, or no checkpoint can be used.
        """
        if cls is Index and (stores := _stores(directory)):
            return stores.build(encoder, sources, directory, progress)
        return cls._written(encoder, sources, Path(directory), progress, keep=False)

    def add(self, encoder: Encoder, sources: Names, progress: bool = False) -> None:
        """Adds all checkpoints that sources stand for, as `build` does, and keeps all other models."""
        self._take(self._written(encoder, sources, self.directory, progress, keep=True))

    def update(self, encoder: Encoder, progress: bool = False) -> None:
        """Brings the index up to date with the sources that it was made of, as `build` does when it is called again.

        Raises:
          InputError: see `build`; or a source is not there, or the index does not say what it was made of.
        """
        named = [Named(shown, located(self.directory, path)) for shown, path in self._store.manifest.sources]
        if not named:
            raise InputError(self.directory, "does not say what it was made of", "name its sources to `wsrl index`")
        for name in named:
            if not name.path.startswith(HUB) and not Path(name.path).exists():
                raise InputError(name.path, "is not there", "put it back, or name the other sources to `wsrl index`")
        self._take(self._written(encoder, named, self.directory, progress, keep=False))

    def _take(self, written: "Index") -> None:
        self.changes, self._encoder = written.changes, written._encoder
        self._become(written._store)

    @classmethod
    def _written(cls, encoder: Encoder, sources: Names, directory: Path, progress: bool, keep: bool) -> "Index":
        with writing(directory):
            store = Store(directory) if (directory / MANIFEST).exists() else None
            if store:
                store.manifest.check_encoder(directory, encoder.hash)
            update = Update(directory, store, encoder)
            index = cls(update.run(as_named(sources), keep, progress), encoder)
        index.changes = update.changes
        return index

    @classmethod
    def open(cls, directory: str | Path, encoder: Encoder | None = None) -> "Index":
        """Opens an index for reading.

        Args:
          directory: of the index; or the address of a vector store, see `wsrl.vector_stores`.
          encoder: embeds queries that are not in the index; by default that of the package, when it is needed.

        Raises:
          InputError: there is no index, it is damaged or of another encoder.
        """
        if cls is Index and (stores := _stores(directory)):
            return stores.open(directory, encoder)
        store = Store(Path(directory))
        if encoder is not None:
            store.manifest.check_encoder(store.directory, encoder.hash)
        return cls(store, encoder)

    def reopen(self) -> None:
        """Goes over to the state that was committed last; what searches have read of this one is kept.

        Raises:
          InputError: see `open`.
        """
        store = Store(self.directory, self._store)
        if self._encoder is not None:
            store.manifest.check_encoder(store.directory, self._encoder.hash)
        self._become(store)

    def remove(self, ids: Collection[str]) -> None:
        """Removes models.

        Raises:
          InputError: there is no model of an id, or another process writes.
        """
        removed = list(dict.fromkeys(self._model(name).id for name in ids))
        self._commit(Change(removed=removed))
        self.changes = Changes(removed=len(removed))

    def annotate(self, name: str, notes: Mapping[str, str | None]) -> None:
        """Notes what the user knows of a model: it stands in the metadata of hits, above what came with the file.

        Args:
          name: id of the model.
          notes: by key; None takes a note away.

        Raises:
          InputError: there is no such model, a key is none that searches can name or one that every index has, a note
            is no text, or another process writes.
        """
        self.annotate_all({name: notes})

    def annotate_all(self, notes: Mapping[str, Mapping[str, str | None]]) -> None:
        """Notes something of many models at once, as `annotate` does; the keys of `notes` are ids."""
        known = {
            self._model(name).id: {ALSO.get(key, key): value for key, value in own.items()}
            for name, own in notes.items()
        }
        for own in known.values():
            for key, value in own.items():
                if value is not None:
                    check_note(key, value)
        changes = {(name, key): value for name, own in known.items() for key, value in own.items()}
        self._commit(Change(annotations=changes))

    def _commit(self, change: Change) -> None:
        with writing(self.directory):
            store = Store(self.directory, self._store)  # it may have changed since it was opened
            committed = commit(self.directory, store, store.manifest.encoder, [], change)
            self._become(commit_derived(self.directory, committed))

    @property
    def ids(self) -> list[str]:
        """Of the models, in the order of the index."""
        return list(self._store.ids)

    @property
    def sources(self) -> list[str]:
        """What the index was made of, as it was named."""
        return [shown for shown, _ in self._store.manifest.sources]

    def __len__(self) -> int:
        return len(self._store.ids)

    def get(self, name: str) -> Embedded:
        """Returns what the encoder said of a model. Raises InputError if there is no such id."""
        return self._store.embedded(self._model(name))

    def metadata(self, name: str) -> dict[str, object]:
        """Returns what came with a model, and above it what users noted. Raises InputError if there is no such id."""
        model = self._model(name)
        return {**model.metadata, **self._store.catalog.annotations(model.id)}

    def checkpoint(self, name: str) -> Checkpoint:
        """Opens the file of a model, with the hints that it was embedded with as metadata.

        Raises:
          InputError: there is no model of this id, or its file cannot be used.
        """
        return open_model(self.directory, self._model(name))

    def functional(self) -> Functional:
        """Returns all models that have a function vector."""
        return functional_models(self._store)

    def info(self) -> dict[str, object]:
        """Returns what the index holds: encoder, models, those with a function vector, bytes, commits, sources."""
        manifest = self._store.manifest
        return {
            "directory": str(self.directory),
            "encoder": manifest.encoder,
            "models": manifest.models,
            "functions": manifest.functions,
            "bytes": sum(size for size, _ in manifest.files.values()),
            "commits": manifest.generation,
            "sources": self.sources,
        }

    def verify(self) -> list[Damage]:
        """Reads all files of the index and returns what is damaged; nothing if all is well."""
        return find_damage(self.directory)

    @classmethod
    def repair(cls, directory: str | Path, encoder: Encoder, progress: bool = False) -> Repaired:
        """Rebuilds what is damaged from the files of the models; see `wsrl.search.repair.repair`."""
        return repair(Path(directory), encoder, progress)

    def export(self, file: str | Path) -> None:
        """Writes all vectors and what is known of the models; see `wsrl.search.export.export_models`."""
        export_models(self._store, Path(file))

    def search(
        self,
        query: Queries,
        k: int = 10,
        by: str = "auto",
        exclude: Bool[np.ndarray, " n"] | Collection[str] = (),
        exact: bool = False,
        *,
        against: Queries = (),
        where: Sequence[str] = (),
        architecture: str = "any",
        group_by: str | None = None,
        per_group: int = 1,
        sort: str | None = None,
    ) -> list[Hit]:
        """Finds the models that are most similar to a query, or to several.

        Args:
          query: a checkpoint (a file that is in the index is not embedded again), an id of the index, or a row; or
            several, whose scores are averaged.
          k: number of hits, at least 1.
          by: "weights" asks who is related, "function" who does the same; "auto" takes the function where the queries
            and a model of the index have one. It lets models of the same weights come first in any case, and then close
            ones where the function of the query is assumed.
          exclude: models that are left out, as a mask or by their ids; they do not count as neighbors either.
          exact: compare with all models, however many there are.
          against: counter-examples; models that are no less similar to one of them than to the query are left out.
          where: conditions that hits fulfill, such as `parameters>6B`; see `wsrl.search.conditions`.
          architecture: "same" as a query's, "other" than all queries', or "any".
          group_by: a key of which every value has at most `per_group` hits; `weights` leaves one of each copy.
          per_group: see `group_by`.
          sort: a key that the hits are ordered by, such as `parameters:desc`; they are the same hits.

        Returns:
          At most k hits, best first unless `sort` is given; `explanation` says how they were found.

        Raises:
          InputError: a query can't be used, has no function vector where one is asked for, or an option is wrong.
        """
        check_options(k, per_group, by, architecture)
        asked, counter = (self._rows(names, by != "weights") for names in (query, against))
        if not asked:
            raise InputError("query", "none was given", "name a checkpoint, or a model of the index")
        hits, self.explanation = self._answer(
            Request(asked, counter, k, by, exclude, exact, where, architecture, group_by, per_group, sort)
        )
        return hits

    def _answer(self, request: Request) -> tuple[list[Hit], Explanation]:
        facts = self._facts
        among = fulfilling(request.where, facts, len(self)) if request.where else None
        if request.architecture != "any":
            asked, wanted = {row.architecture for row in request.queries}, request.architecture == "same"
            own = np.array([(name in asked) == wanted for name in self._store.architectures], bool)
            among = own if among is None else among & own
        groups = None if request.group_by is None else facts.groups(request.group_by)
        question = Question(
            request.queries, request.against, request.k, request.by, self._mask(request.exclude), among, groups,
            request.per_group, request.exact,
        )  # fmt: skip
        hits, explanation = self._searcher.search(question)
        if request.sort is not None:
            by_place = {self._searcher.place[hit.id]: hit for hit in hits}
            hits = [by_place[place] for place in order(request.sort, facts, list(by_place))]
        return hits, explanation

    def _rows(self, names: Queries, function: bool) -> list[Embedded]:
        listed = [names] if isinstance(names, str | Path | Embedded) else list(names)
        return [name if isinstance(name, Embedded) else self.row(str(name), function) for name in listed]

    def row(self, name: str, function: bool = True) -> Embedded:
        """Returns what is known of a checkpoint or of an id; see `wsrl.search.query_rows.QueryRows.row`."""
        return self._queries.row(name, function)

    def _mask(self, exclude: Bool[np.ndarray, " n"] | Collection[str]) -> Bool[np.ndarray, " n"] | None:
        if isinstance(exclude, np.ndarray):
            if exclude.shape != (len(self),):
                raise InputError("exclude", f"is a mask of {exclude.shape} for {len(self)} models", "give one a model")
            return exclude if exclude.any() else None
        mask = np.zeros(len(self), bool)
        for name in exclude:
            mask[self._searcher.place[self._model(name).id]] = True
        return mask if mask.any() else None

    def _model(self, name: str) -> Model:
        """The model of an id, given as it is or as commands print it."""
        model = self._store.catalog.get(printable_id(name))
        if model is None and (printed := [own for own in self.ids if printable(own) == name]):
            model = self._store.catalog.get(printed[0]) if len(printed) == 1 else None
        if model is None:
            raise InputError(name, f"is no model of the index {self.directory}", "check the name")
        return model


def check_options(k: int, per_group: int, by: str, architecture: str) -> None:
    """Raises InputError if an option of `Index.search` has none of its values."""
    for name, value in (("k", k), ("per_group", per_group)):
        if value < 1:
            raise InputError(name, f"is {value}", "ask for at least one hit")
    for name, value, known in (("by", by, BY), ("architecture", architecture, ARCHITECTURES)):
        if value not in known:
            raise InputError(name, f"is {value!r}", f"give one of {', '.join(known)}")


def _stores(directory: str | Path) -> "type[Index] | None":
    """The class of indexes in vector stores if an address of one was given; few need it."""
    if not is_address(directory):
        return None
    from wsrl.vector_stores.store_index import StoreIndex

    return StoreIndex
