"""Finds what of an index is damaged, and rebuilds that from the files of its models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.errors import InputError
from wsrl.search.catalog import Catalog, Change, Model, Stat
from wsrl.search.commit import commit, writing
from wsrl.search.database import DamagedError
from wsrl.search.derive import commit_derived
from wsrl.search.file_identity import file_stat, located
from wsrl.search.manifest import Manifest, is_graph, segment_of
from wsrl.search.sources import Named, Source, find_sources
from wsrl.search.store import Store, measure
from wsrl.search.update import Changes, Update, unreadable

MENDS = {
    "manifest": "embed all models again from their files; what was noted of them is kept",
    "models": "index the sources again; what was noted of models is kept as far as it can be read",
    "vectors": "embed these models again from their files",
    "neighbors": "find them again",
    "graph": "make it again",
}


@dataclass(frozen=True)
class Damage:
    """A file of an index that is not as it was written.

    Attributes:
      part: "manifest", "models" (the database), "vectors" (of a segment), "neighbors" or "graph" (of a large segment);
        what `repair` does about it is in MENDS.
      models: how many models it is about; None if that cannot be told.
      file: its path.
      reason: what is wrong.
    """

    part: str
    models: int | None
    file: str
    reason: str


@dataclass
class Repaired:
    """What `repair` did.

    Attributes:
      damage: what was damaged.
      changes: what was embedded, and why models were left out.
      lost: ids of models that are no longer in the index: their vectors were damaged and their files cannot be used.
    """

    damage: list[Damage]
    changes: Changes = field(default_factory=Changes)
    lost: list[str] = field(default_factory=list)


def find_damage(directory: Path) -> list[Damage]:
    """Reads all files of an index and returns what is wrong; nothing if all is well.

    Raises:
      InputError: the folder is no index, or one of another version.
    """
    try:
        manifest = Manifest.read(directory)
    except DamagedError as error:
        return [Damage("manifest", None, error.file, error.reason)]
    wrong = {name: _wrong(directory / name, recorded) for name, recorded in manifest.files.items()}
    found = [
        Damage(*_part(directory, manifest, name, wrong), str(directory / name), reason)
        for name, reason in wrong.items()
        if reason
    ]
    if not found:
        try:
            Store(directory).check()
        except DamagedError as error:
            part = "models" if error.file.endswith(".sqlite") else "vectors"
            found.append(Damage(part, manifest.models, error.file, error.reason))
    return found


def _wrong(path: Path, recorded: tuple[int, str]) -> str:
    try:
        return "" if measure(path) == recorded else "not as it was written"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _part(directory: Path, manifest: Manifest, name: str, wrong: Mapping[str, str]) -> tuple[str, int | None]:
    """What a file is part of, and how many models that is about."""
    if name in manifest.databases:
        return "models", manifest.models
    if name in manifest.derived:
        return "neighbors", manifest.functions
    part = "graph" if is_graph(name) else "vectors"
    if any(wrong[database] for database in manifest.databases):
        return part, None
    segments = Catalog([directory / database for database in manifest.databases]).columns().places[:, 0]
    return part, int((segments == segment_of(name)).sum())


def repair(directory: Path, encoder: Encoder, progress: bool = False) -> Repaired:
    """Rebuilds what is damaged; a process that is killed meanwhile leaves no more damage than there was.

    Damaged vectors are made again from the files of their models; models whose files cannot be used are lost, and what
    users noted of them waits for them to be indexed again. A damaged database or manifest costs all vectors.

    Args:
      encoder: that of the index.
      progress: show a progress line on stderr.

    Raises:
      InputError: the folder is no index or one of another encoder, another process writes there, or no model can be
        rebuilt.
    """
    if not directory.is_dir():
        Manifest.read(directory)  # says that it is no index
    with writing(directory):
        repaired = Repaired(find_damage(directory))
        parts = {damage.part for damage in repaired.damage}
        if "manifest" not in parts:
            Manifest.read(directory).check_encoder(directory, encoder.hash)
        if parts & {"manifest", "models"}:
            _rebuild(directory, encoder, repaired, progress)
        elif parts:
            _mend_vectors(directory, encoder, repaired, progress)
    return repaired


def _mend_vectors(directory: Path, encoder: Encoder, repaired: Repaired, progress: bool) -> None:
    store = Store(directory)
    graphs = {Path(damage.file).name for damage in repaired.damage if damage.part == "graph"}
    files = {name: own for name, own in store.manifest.files.items() if name not in graphs}
    store.manifest = replace(store.manifest, files=files)
    bad = {Path(damage.file).name for damage in repaired.damage if damage.part == "vectors"}
    whole = bad and bad.isdisjoint(store.manifest.files)  # the files are as they were written, but do not fit together
    segments = set(store.manifest.segments) if whole else {segment_of(name) for name in bad}
    models = [model for model in store.catalog.models() if model.place.segment in segments]
    update = Update(directory, store, encoder)
    embedded = update.embed(_sources(directory, models, update.changes), progress)
    repaired.changes, repaired.lost = update.changes, [model.id for model in models if model.id not in embedded]
    committed = commit(directory, update.store, encoder.hash, [], Change(lost=repaired.lost))
    commit_derived(directory, committed)


def _rebuild(directory: Path, encoder: Encoder, repaired: Repaired, progress: bool) -> None:
    """Embeds all models and commits them at once: until then, what is left of the old index stays."""
    try:
        manifest = Manifest.read(directory)
    except DamagedError:
        manifest = None
    notes, models = _salvaged(directory, manifest)
    update = Update(directory, None, encoder)
    if models and manifest is None:
        missing = _sources(directory, models, update.changes)
    elif manifest and manifest.sources:
        named = [Named(shown, located(directory, path)) for shown, path in manifest.sources]
        sources, update.changes.problems, _ = find_sources(named)
        missing = _with_stats(sources, update.changes)
    else:
        raise InputError(directory, "does not tell any more what it was made of", "index its sources into a new folder")
    rows = list(update.embedding(missing, progress))
    if not rows:
        raise InputError(directory, "no file of its models can be used", "index its sources into a new folder")
    update.changes.embedded, repaired.changes = len(rows), update.changes
    there = {model.id for model, _ in rows}
    repaired.lost = [model.id for model in models if model.id not in there]
    paths = dict.fromkeys(model.path for model, _ in rows)  # all that is known where the manifest is lost
    sources = manifest.sources if manifest else tuple((located(directory, path), path) for path in paths)
    committed = commit(directory, None, encoder.hash, rows, Change(annotations=notes), sources)
    commit_derived(directory, committed)


def _salvaged(
    directory: Path, manifest: Manifest | None
) -> tuple[Mapping[tuple[str, str], str | None], Sequence[Model]]:
    """What users noted and the models, as far as the database can be read."""
    found = sorted(directory.glob("models-*.sqlite"))
    paths = [directory / name for name in manifest.databases] if manifest else found
    notes: dict[tuple[str, str], str | None] = {}
    models: list[Model] = []
    for path in paths:
        try:
            catalog = Catalog([path])
            notes |= catalog.all_annotations()
            models += catalog.models()
        except (DamagedError, FileNotFoundError):
            continue
    return notes, list({model.id: model for model in models}.values())


def _sources(directory: Path, models: Sequence[Model], changes: Changes) -> list[tuple[Source, Stat | None]]:
    """The files that models were made of."""
    return _with_stats(
        [
            Source(
                model.id,
                located(directory, model.path),
                model.stat.record if model.stat else None,
                dict(model.hints),
                dict(model.metadata),
            )
            for model in models
        ],
        changes,
    )


def _with_stats(sources: Sequence[Source], changes: Changes) -> list[tuple[Source, Stat | None]]:
    found = []
    for source in sources:
        try:
            found.append((source, file_stat(source.path, source.record)))
        except OSError as error:
            changes.problems.append(unreadable(source.path, error))
    return found
