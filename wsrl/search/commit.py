"""Commits to an index: new files are written first, and the manifest that names them last."""

import fcntl
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.search.catalog import Change, Model, Place
from wsrl.search.fixed_point import to_fixed
from wsrl.search.manifest import (
    LOCK,
    MANIFEST,
    OWN,
    Manifest,
    last_number,
    segment_file,
    segment_of,
)
from wsrl.search.segment import BRUTE_FORCE_BELOW
from wsrl.search.store import Store, measure
from wsrl.search.write_database import write_database

MOST_SEGMENTS = 8  # of more the small ones are merged into one


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
    kept = store.standing(gone) if store else np.zeros((0, 2), np.int64)
    places = Counter(dict(zip(*(part.tolist() for part in np.unique(kept[:, 0], return_counts=True)), strict=True)))
    places.update(model.place.segment for model in change.models)
    segments = {number: rows for number, rows in store.manifest.segments.items() if number in places} if store else {}
    written, moved = [row for _, row in new], {}
    files = {name: own for name, own in (store.manifest.files if store else {}).items() if segment_of(name) in segments}
    merged = _merged(segments, places, len(new))
    if store and merged and all(store.sound(name) for name in files if segment_of(name) in merged):  # else: repaired
        staying = [model for model in store.catalog.models(merged) if model.id not in gone] + list(change.models)
        staying = [model for model in staying if model.place.segment in merged]
        written += [store.embedded(model) for model in staying]
        segments = {number: rows for number, rows in segments.items() if number not in merged}
        files = {name: own for name, own in files.items() if segment_of(name) in segments}
        moved = dict.fromkeys(model.id for model in staying)
    places = _places(generation, written)
    moved = dict(zip(moved, places[len(new) :], strict=True))
    if written:
        segments[generation], own = _write_segment(directory, generation, written)
        files |= own
    models = [*change.models, *(replace(model, place=place) for (model, _), place in zip(new, places, strict=False))]
    only_more = store and not change and len(kept) == len(store.ids)
    same = _kept_databases(store, merged if moved else (), len(models)) if store and only_more else 0
    before = store.manifest.databases if store else ()
    databases = before[:same]
    if models or same < len(before):
        databases = (*databases, f"models-{generation:06d}.sqlite")
        path, first = directory / databases[-1], store.parts[same - 1].last + 1 if store and same else 1
        write_database(
            [directory / name for name in before[same:]], path, replace(change, models=models, moved=moved), first
        )
        files[path.name] = measure(path)
    files |= {name: store.manifest.files[name] for name in before[:same]} if store else {}
    neighbors = store.manifest.neighbors if store and not gone else ""
    if store and neighbors:
        derived = {name: store.manifest.files[name] for name in store.manifest.derived}
        neighbors = neighbors if all(map(store.sound, derived)) else ""
        files |= derived if neighbors else {}
    sync(directory)
    functions = int(kept[:, 1].sum()) + sum(model.place.function is not None for model in models)
    if sources is None:
        sources = store.manifest.sources if store else ()
    manifest = Manifest(
        encoder, generation, len(kept) + len(models), functions, databases, segments, files, neighbors, sources
    )
    write_atomically(directory / MANIFEST, manifest.to_bytes())
    sync(directory)
    clear(directory, files)
    return Store(directory, store)


def _kept_databases(store: Store, merged: Collection[int], new: int) -> int:
    """How many databases, from the first, stay as they are in a commit that only adds models.

    The others become one with what is added: those whose models are moved, those that are small, and those that are no
    larger than what comes after them. So there are few, and a model is seldom written anew.

    Args:
      store: the state before.
      merged: segments that are written anew, so that their models are moved.
      new: models that are added.
    """
    ends = [0, *np.cumsum([part.models for part in store.parts]).tolist()]
    same = int(np.searchsorted(ends[1:], store.first_in(merged), side="right"))
    while same and store.parts[same - 1].models <= max(BRUTE_FORCE_BELOW, ends[-1] - ends[same] + new):
        same -= 1
    return same


def _merged(segments: Mapping[int, tuple[int, int, int]], places: Mapping[int, int], new: int) -> Collection[int]:
    """Numbers of the segments that are written anew as one: most of their rows are of no model, or there are too many.

    Args:
      segments: see `wsrl.search.manifest.Manifest`.
      places: models of each.
      new: models that are added.
    """
    rows = {number: count for number, (count, *_) in segments.items()}
    if len(segments) + bool(new) > MOST_SEGMENTS:
        return {number for number, count in rows.items() if count < BRUTE_FORCE_BELOW} or set(segments)
    if 2 * (sum(places.values()) + new) < sum(rows.values()):
        return {number for number, count in rows.items() if 2 * places[number] < count}
    return set()


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
            many = kind != "signatures" and len(vectors) >= BRUTE_FORCE_BELOW
            stacked = np.stack(vectors).astype(np.float32)
            write_array(path, to_fixed(stacked) if many else stacked)
            files[path.name] = measure(path)
    weights, function, signatures = (len(vectors) for vectors in arrays.values())
    return (weights, function, signatures), files


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array to disk."""
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, (1, 0), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def sync(directory: Path) -> None:
    """Flushes the names of a folder to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
