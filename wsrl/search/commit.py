"""Commits to an index: new files are written first, and the manifest that names them last."""

import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.search.catalog import Change, Model, Place, write_database
from wsrl.search.manifest import KINDS, LOCK, MANIFEST, OWN, Manifest, expansion_file, last_number, segment_file
from wsrl.search.query_expansion import QueryExpansion
from wsrl.search.store import Store, measure

MOST_SEGMENTS = 8  # more are merged into one


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made if it is not there.

    Raises:
      InputError: another process writes there, or the folder holds other things.
    """
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / MANIFEST).exists() and not all(OWN.fullmatch(path.name) for path in directory.iterdir()):
        raise InputError(directory, "is a folder with other things in it", "name a new folder for the index")
    with open(directory / LOCK, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(directory, "is being written by another process", "wait until that has ended") from error
        try:
            yield
        finally:
            if made and not (directory / MANIFEST).exists():  # nothing came of it
                (directory / LOCK).unlink(missing_ok=True)
                with suppress(OSError):  # other files were left there
                    directory.rmdir()


def commit_neighbors(directory: Path, store: Store) -> Store:
    """Finds the neighbors that search by function needs, unless a commit has, and writes them; while the lock is held.

    To find them takes seconds for 10,000 models, so searches should not.
    """
    if store.manifest.neighbors or not len(store.has_function):
        return store
    kinds = [store.architectures[place] for place in store.has_function]
    path = directory / f"neighbors-{store.manifest.generation:06d}.npy"
    found = QueryExpansion.build(store.functions, kinds)
    written = {path: found.near, directory / expansion_file(path.name): found.all_factors}
    for file, array in written.items():
        _write_array(file, array)
    files = {**store.manifest.files, **{file.name: measure(file) for file in written}}
    _sync(directory)
    write_atomically(directory / MANIFEST, replace(store.manifest, files=files, neighbors=path.name).to_bytes())
    _sync(directory)
    return Store(directory)


def commit(
    directory: Path,
    store: Store | None,
    encoder: str,
    new: Sequence[tuple[Model, Embedded]],
    change: Change,
    sources: tuple[tuple[str, str], ...] | None = None,
) -> Store:
    """Commits a new state; call it while the lock is held.

    Args:
      directory: of the index.
      store: the state before; None for none.
      encoder: its hash.
      new: models with their vectors, whose places are filled in here.
      change: of the other models.
      sources: see `wsrl.search.manifest.Manifest`; None for those before.

    Returns:
      The new state, opened.
    """
    generation = store.manifest.generation + 1 if store else last_number(directory) + 1
    gone = {*change.removed, *change.lost, *(model.id for model, _ in new), *(model.id for model in change.models)}
    kept = [row for row in store.rows() if row[0] not in gone] if store else []
    live = {segment for _, _, segment in kept} | {model.place.segment for model in change.models}
    segments = {number: rows for number, rows in store.manifest.segments.items() if number in live} if store else {}
    written, moved = [row for _, row in new], {}
    count, rows = len(kept) + len(new) + len(change.models), sum(count for count, *_ in segments.values())
    files = {name: found for name, found in (store.manifest.files if store else {}).items() if _of(segments, name)}
    merged = len(segments) + bool(new) > MOST_SEGMENTS or 2 * count < rows
    if store and merged and all(map(store.sound, files)):  # else these are being repaired
        staying = [model for model in store.catalog.models() if model.id not in gone] + list(change.models)
        written += [store.embedded(model) for model in staying]
        segments, files, moved = {}, {}, dict.fromkeys(model.id for model in staying)
    places = _places(generation, written)
    moved = dict(zip(moved, places[len(new) :], strict=True))
    if written:
        segments[generation], own = _write_segment(directory, generation, written)
        files |= own
    models = [*change.models, *(replace(model, place=place) for (model, _), place in zip(new, places, strict=False))]
    database = f"models-{generation:06d}.sqlite"
    old = directory / store.manifest.database if store else None
    write_database(old, directory / database, replace(change, models=models, moved=moved))
    files[database] = measure(directory / database)
    neighbors = store.manifest.neighbors if store and not gone else ""
    if store and neighbors:
        derived = {name: store.manifest.files[name] for name in store.manifest.derived}
        neighbors = neighbors if all(map(store.sound, derived)) else ""
        files |= derived if neighbors else {}
    _sync(directory)
    functions = sum(function for _, function, _ in kept) + sum(model.place.function is not None for model in models)
    if sources is None:
        sources = store.manifest.sources if store else ()
    manifest = Manifest(
        encoder, generation, len(kept) + len(models), functions, database, segments, files, neighbors, sources
    )
    write_atomically(directory / MANIFEST, manifest.to_bytes())
    _sync(directory)
    clear(directory, files)
    return Store(directory)


def clear(directory: Path, files: Collection[str]) -> None:
    """Deletes what the manifest does not name: files of former commits, and of one that was killed."""
    for path in directory.iterdir():
        if OWN.fullmatch(path.name) and path.name not in (*files, LOCK):
            path.unlink(missing_ok=True)


def _places(segment: int, rows: Sequence[Embedded]) -> list[Place]:
    functions = np.cumsum([row.function is not None for row in rows]) - 1
    ends = np.cumsum([len(row.tensors) for row in rows])
    return [
        Place(segment, at, None if row.function is None else int(functions[at]), int(ends[at]) - len(row.tensors))
        for at, row in enumerate(rows)
    ]


def _write_segment(
    directory: Path, number: int, rows: Sequence[Embedded]
) -> tuple[tuple[int, int, int], dict[str, tuple[int, str]]]:
    arrays = {
        "weights": [row.weights for row in rows],
        "function": [row.function for row in rows if row.function is not None],
        "signatures": [signature for row in rows for signature in row.tensors.values()],
    }
    files = {}
    for kind, vectors in arrays.items():
        if vectors:
            path = directory / segment_file(kind, number)
            _write_array(path, np.stack(vectors).astype(np.float32))
            files[path.name] = measure(path)
    weights, function, signatures = (len(vectors) for vectors in arrays.values())
    return (weights, function, signatures), files


def _write_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, (1, 0), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _of(segments: Collection[int], name: str) -> bool:
    """Whether a file belongs to one of the segments."""
    kind, _, number = name.removesuffix(".npy").partition("-")
    return kind in KINDS and int(number) in segments


def _sync(directory: Path) -> None:
    """Flushes the names of a folder to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
