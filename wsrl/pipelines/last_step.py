"""The last step of a run: one process makes an index of the parts, or brings one up to date."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.pipelines import hub, parts
from wsrl.pipelines.listed import Letter, Listed
from wsrl.search.catalog import Change, Model
from wsrl.search.commit import clear, commit, commit_neighbors, writing
from wsrl.search.file_identity import relative
from wsrl.search.manifest import MANIFEST
from wsrl.search.store import Store
from wsrl.search.update import Changes, new_model
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


def index_run(run: Run, names: Sequence[str], directory: Path) -> Changes:
    """Makes an index of a run, or brings one up to date: models that the run did not list are removed.

    Args:
      run: its rows; what is wrong is added to its problems.
      names: what the run was given.
      directory: of the index.

    Returns:
      What was done; `embedded` counts what is new to the index.

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
            first = f" ({changes.problems[0]})" if changes.problems else ""
            raise InputError(directory, f"no checkpoint could be used{first}", "name some that can be read")
        if removed or store.manifest.sources != sources:
            store = commit(directory, store, run.encoder, [], Change(removed=removed), sources)
        changes.removed = len(removed)
        clear(directory, store.manifest.files)
        commit_neighbors(directory, store)
    return changes
