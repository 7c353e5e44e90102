"""The last step of a run: one process makes an index of the parts, or brings one up to date."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.errors import InputError
from wsrl.pipelines import hub, parts
from wsrl.pipelines.listed import Letter, Listed
from wsrl.search.catalog import Change, Model
from wsrl.search.commit import clear, commit, writing
from wsrl.search.derive import commit_derived
from wsrl.search.file_identity import relative
from wsrl.search.index import Index
from wsrl.search.manifest import MANIFEST
from wsrl.search.store import Store
from wsrl.search.update import Changes, new_model
from wsrl.vector_stores.store_index import StoreIndex, stored_model
from wsrl.wiring.tree import natural

CHUNK = 20_000  # models of a commit, whose vectors are in memory


@dataclass
class Run:
    """What the parts of a run say.

    Attributes:
      out, run: see `wsrl.pipelines.parts`.
      encoder: its hash.
      names: by the key of their content.
      problems: what is wrong with checkpoints.
    """

    out: str
    run: str
    encoder: str
    names: dict[str, list[Listed]] = field(default_factory=dict)
    problems: list[InputError] = field(default_factory=list)

    @classmethod
    def read(cls, out: str, run: str, encoder: str) -> "Run":
        """Reads the names of a run, each id once, and its letters.

        Raises:
          InputError: a part is damaged.
        """
        found = cls(out, run, encoder)
        ids: dict[str, Listed] = {}
        for path in parts.find_parts(out, parts.NAMES, run):
            for name in parts.read_names(path):
                other = ids.setdefault(name.source.id, name)
                if other.source.path != name.source.path or other.source.record != name.source.record:
                    reason = f"has the id of {other.source.path}: {name.source.id!r}"
                    found.problems.append(InputError(name.source.path, reason, "embed one zoo alone"))
        for name in ids.values():
            found.names.setdefault(name.key, []).append(name)
        for path in parts.find_parts(out, parts.RETRY, run):
            found.problems += [letter.error() for letter in parts.read_letters(path)]
        return found

    def rows(self) -> Iterator[tuple[Listed, Embedded]]:
        """Yields every name of the run with what the encoder said, and notes in `problems` those without.

        Raises:
          InputError: a part is damaged.
        """
        left = dict(self.names)
        for path in parts.find_parts(self.out, parts.VECTORS):
            for key, row in parts.read_vectors(path):
                for name in left.pop(key, ()):  # a key may be in two parts, of two machines that did the same work
                    yield name, replace(row, id=name.source.id)
        told = {error.file for error in self.problems}
        for path in parts.find_parts(self.out, parts.LETTERS):
            for letter in parts.read_letters(path):
                own = [letter._replace(id=name.source.id) for name in left.pop(letter.key, ())]
                self.problems += [each.error() for each in own]
        lost = [name.source.id for names in left.values() for name in names if name.source.id not in told]
        self.problems += [Letter("", name, "was not embedded", "run the command again").error() for name in lost]


def store_run(run: Run, encoder: Encoder, address: str) -> Index:
    """Brings an index in a vector store up to date with a run, as `index_run` does one in a folder.

    One process writes, through the store's client: Milvus Lite and a folder of Qdrant belong to one process, and what
    is written to a server is little beside the work of embedding.

    Args:
      run: its rows; what is wrong is added to its problems.
      encoder: that made them.
      address: see `wsrl.vector_stores`.

    Raises:
      InputError: no checkpoint could be used, a part is damaged, or the store does not answer.
    """
    index = StoreIndex.made(address, encoder)
    index.changes.problems = run.problems
    index.become((stored_model(name.source, name.stat, row), row) for name, row in run.rows())
    if not len(index):
        raise _nothing(address, run.problems)
    return index


def _nothing(place: str | Path, problems: Sequence[InputError]) -> InputError:
    first = f" ({problems[0]})" if problems else ""
    return InputError(place, f"no checkpoint could be used{first}", "name some that can be read")


def index_run(run: Run, names: Sequence[str], directory: Path) -> Index:
    """Makes an index of a run, or brings one up to date: models that the run did not list are removed.

    Args:
      run: its rows; what is wrong is added to its problems.
      names: what the run was given.
      directory: of the index.

    Returns:
      The index; of its `changes`, `embedded` counts what is new to it.

    Raises:
      InputError: no checkpoint could be used; a part is damaged; or the folder is of something else, of another
        encoder or being written by another process.
    """
    changes = Changes(problems=run.problems)
    filtered = any(hub.is_filter(name) for name in names)  # whose models cannot be listed again by `wsrl update`
    sources = () if filtered else tuple((name, relative(directory, name)) for name in names)
    with writing(directory):
        store = Store(directory) if (directory / MANIFEST).exists() else None
        if store:
            store.manifest.check_encoder(directory, run.encoder)
        old = {model.id: model for model in store.catalog.models()} if store else {}
        seen: set[str] = set()
        held: list[tuple[Model, Embedded]] = []

        def write(store: Store | None) -> Store:
            held.sort(key=lambda pair: natural(pair[0].id))
            store = commit(directory, store, run.encoder, held, Change(), sources)
            changes.embedded += len(held)
            held.clear()
            return store

        for name, row in run.rows():
            model = new_model(directory, name.source, name.stat, row)
            seen.add(model.id)
            before = old.get(model.id)
            if before and replace(model, place=before.place) == before:
                changes.unchanged += 1
                continue
            if row.incomplete:
                changes.incomplete.append(row.incomplete)
            held.append((model, row))
            if len(held) == CHUNK:
                store = write(store)
        removed = [name for name in old if name not in seen]
        if held:
            store = write(store)
        if store is None or not seen:
            raise _nothing(directory, changes.problems)
        if removed or store.manifest.sources != sources:
            store = commit(directory, store, run.encoder, [], Change(removed=removed), sources)
        changes.removed = len(removed)
        clear(directory, store.manifest.files)
        index = Index(commit_derived(directory, store))
    index.changes = changes
    return index
