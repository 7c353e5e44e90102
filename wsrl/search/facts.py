"""What is known of the models of an index, by key: what searches filter, sort and group by."""

import re
import time
from collections import Counter
from collections.abc import Callable, Hashable
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from wsrl.errors import InputError
from wsrl.search.catalog import as_metadata
from wsrl.search.file_identity import HUB, located, printable_id
from wsrl.search.near_groups import FAMILY, NearGroups
from wsrl.search.question import Groups
from wsrl.search.store import Store

COLUMNS = {"path": "path", "parameters": "parameters", "size": "size", "predicted_accuracy": "accuracy"}
KEY = r"[\w.-]+"  # what a condition can name
KNOWN = {  # keys of every index -> what their values are
    "id": "text", "path": "text", "architecture": "text", "parameters": "count", "size": "bytes", "modified": "date",
    "age": "duration", "predicted_accuracy": "number", "weights": "text",
}  # fmt: skip
ALSO = {"params": "parameters", "licence": "license", "base": "base_model"}  # other spellings


class Facts:
    """Values of all models by key, in the order of the index; read when they are first asked for."""

    def __init__(self, store: Store):
        self._store = store
        self._groups: dict[str, Groups] = {}
        self._told: dict[str, list[object]] = {}  # values of keys that only some indexes have

    @cached_property
    def masks(self) -> dict[Hashable, Bool[np.ndarray, " n"]]:
        """Which models fulfill conditions; kept by `wsrl.search.conditions.fulfilling`."""
        return {}

    @cached_property
    def metadata(self) -> list[dict[str, object]]:
        """What came with each model, and above it what users noted."""
        notes: dict[str, dict[str, object]] = {}
        for (name, key), value in self._store.catalog.all_annotations().items():
            notes.setdefault(name, {})[key] = as_metadata(key, value)
        own = self._store.catalog.metadata()
        return [{**about, **notes.get(name, {})} for name, about in zip(self._store.ids, own, strict=True)]

    def key(self, name: str) -> str:
        """Returns the key that a name stands for.

        Raises:
          InputError: no model has such a key; lists those that there are.
        """
        if name in KNOWN:
            return name
        known = self._keys
        key = name if name in known else ALSO.get(name, name)
        if key not in known:
            if key == FAMILY:
                raise InputError(name, "is noted of no model of this index", "run `wsrl lineage --note` on it first")
            listed = ", ".join(dict.fromkeys([*known, FAMILY]))
            raise InputError(name, "is no key of this index", f"known are {listed}")
        return key

    @cached_property
    def _keys(self) -> list[str]:
        notes = self._store.catalog.all_annotations()
        there = set(self._store.ids) if notes else set()
        noted = {key for name, key in notes if name in there}
        return [*KNOWN, *sorted((self._store.catalog.metadata_keys() | noted) - KNOWN.keys())]

    @cached_property
    def _families(self) -> dict[int, Hashable]:
        """Families of models of which they are noted, by their places."""
        noted = self.values(FAMILY) if FAMILY in self._keys else ()
        return {place: str(own) for place, own in enumerate(noted) if own is not None}

    def groups(self, name: str) -> Groups | NearGroups:
        """Returns the groups of models that have one value by a key; kept for the next call.

        Models of which no family is noted are grouped by near vectors.
        """
        if name == FAMILY:
            return NearGroups(self._store.weights_at, self._families)
        key = self.key(name)
        if key not in self._groups:
            values = self.values(key)
            self._groups[key] = Groups(own := list(map(group_of, values)), Counter(own))
        return self._groups[key]

    def kind(self, key: str) -> str:
        """Returns what the values of a key are: "text", "count", "bytes", "date", "duration", "number" or "any"."""
        return KNOWN.get(key, "any")

    def values(self, key: str) -> list[object]:
        """Returns the value of each model, None where there is none; see `key` for what a key may be.

        `modified` is the time of the file in seconds since 1970 and `age` that before now; both are looked up.
        `weights` is equal for models of the same weights.
        """
        store = self._store
        read: dict[str, Callable[[], list]] = {
            "id": lambda: store.ids,
            "architecture": lambda: [name or None for name in store.architectures],
            "weights": lambda: store.catalog.column("weights_digest"),
            "modified": lambda: self._times,
            "age": lambda: [None if at is None else time.time() - at for at in self._times],
            **{name: lambda column=column: store.catalog.column(column) for name, column in COLUMNS.items()},
            "path": lambda: self._paths,
        }
        if key in read:
            return read[key]()
        if key not in self._told:
            notes = store.catalog.all_annotations().items()
            noted = {name: as_metadata(key, value) for (name, own), value in notes if own == key}
            told = store.catalog.metadata_values(key)
            self._told[key] = [noted.get(name, value) for name, value in zip(store.ids, told, strict=True)]
        return self._told[key]

    @cached_property
    def _paths(self) -> list[str]:
        return [located(self._store.directory, path) for path in self._store.catalog.paths()]

    @property
    def _times(self) -> list[float | None]:
        return [modified(path) for path in self._paths]


def group_of(value: object) -> str | int | float | None:
    """Returns what models of a value are grouped by; a list of one name counts as the name."""
    alone = value[0] if isinstance(value, list) and len(value) == 1 else value
    return alone if alone is None or isinstance(alone, str | int | float) else str(alone)


def modified(path: str) -> float | None:
    """Returns when a file was changed last, in seconds since 1970; None of the hub and of what is not there."""
    try:
        return None if path.startswith(HUB) else Path(path).stat().st_mtime
    except OSError:
        return None


def check_note(key: str, value: str) -> None:
    """Checks that searches can ask for a note.

    Raises:
      InputError: they can't: the key has characters that no condition has, or stands for something else; or the value
        is no text.
    """
    if not re.fullmatch(KEY, key):
        raise InputError(key, "is no key of a note", "use letters, digits, and any of _ . -")
    if key in KNOWN:
        raise InputError(key, "is a key that every index has", "note it under another key")
    if not value.isascii() and printable_id(value) != value:
        raise InputError(key, "the note is no UTF-8 text", "write it in UTF-8")
