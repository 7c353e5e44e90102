"""What an index knows of its models beside their vectors: SQLite databases, which are never changed once committed.

Each holds models that follow those of the databases before it. A commit writes a new one, so a reader sees one state
and a crash leaves the old one; see `wsrl.search.write_database`.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from wsrl.readers.declared import BASE, base_names
from wsrl.search.database import Database, damaged

HEAD = 8  # characters of a digest that find nearly all rows of it, and take a tenth of the bytes


class Stat(NamedTuple):
    """What tells that a file has not changed since it was embedded.

    Attributes:
      device, inode: of the file or folder.
      size: bytes, of all files that belong to it.
      mtime: nanoseconds, the sum over these files.
      record: position in a shard of many checkpoints.
    """

    device: int
    inode: int
    size: int
    mtime: int
    record: int | None = None


class Place(NamedTuple):
    """Where the vectors of a model stand: rows of the files of a segment; `function` is None if it has none."""

    segment: int
    weights: int
    function: int | None
    signatures: int


NOWHERE = Place(0, 0, None, 0)  # until a commit places the vectors


@dataclass(frozen=True)
class Model:
    """A row of the database.

    Attributes:
      id: unique in the index.
      path: of the file or folder, relative to the folder of the index; or the address hf://...
      stat: of the file; None for an address.
      hints: that it was embedded with.
      metadata: what came with the source, such as its line in the manifest of a zoo.
      tensors: names of those that have a signature.
      place: of its vectors.
      content_digest, weights_digest, architecture, parameters, accuracy, assumed, no_function, warnings: see
        `wsrl.embedded.Embedded`.
    """

    id: str
    path: str
    stat: Stat | None
    content_digest: str
    weights_digest: str
    architecture: str
    parameters: int
    accuracy: float | None
    assumed: tuple[str, ...]
    no_function: str
    warnings: tuple[str, ...]
    hints: Mapping[str, object]
    metadata: Mapping[str, object]
    tensors: tuple[str, ...]
    place: Place


@dataclass(frozen=True)
class Change:
    """What a commit does to the database, in this order.

    Attributes:
      renamed: new ids by the old ones, which annotations follow.
      removed: ids.
      lost: ids of models that are removed while what users noted of them is kept, for when they come back.
      models: written, in place of any of the same ids.
      moved: places of models that stay.
      annotations: (id, key) -> value; None takes one away.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    removed: Sequence[str] = ()
    lost: Sequence[str] = ()
    models: Sequence[Model] = ()
    moved: Mapping[str, Place] = field(default_factory=dict)
    annotations: Mapping[tuple[str, str], str | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.renamed, self.removed, self.lost, self.models, self.moved, self.annotations))


class Part(NamedTuple):
    """What tells whether a database is another, and whether it is that with models added.

    Attributes:
      line: the same in databases of which one is no more than the other with models added; 0 in an earlier version.
      models: how many it holds.
      last: the highest number of a row in it and in those before it.
    """

    line: int
    models: int
    last: int


class Columns(NamedTuple):
    """What is held of all models, in the order of the index.

    Attributes:
      ids, architectures: of the models.
      places: segment, row of the weights, of the function (-1 for none) and of the signatures.
      parts: of each database.
    """

    ids: list[str]
    architectures: list[str]
    places: Int64[np.ndarray, "n 4"]
    parts: tuple[Part, ...] = ()


class Catalog:
    """The committed databases of an index, opened for reading.

    Raises:
      FileNotFoundError: one is not there.
      InputError: one is no database of an index; any method may find that.
    """

    def __init__(self, paths: Sequence[Path]):
        self.path = paths[0]
        self._databases = [Database(path) for path in paths]

    def _read(self, statement: str, values: tuple = ()) -> list[tuple]:
        found = [database.read(statement, values) for database in self._databases]
        return found[0] if len(found) == 1 else [row for rows in found for row in rows]

    def columns(self, before: Columns | None = None) -> Columns:
        """Returns columns of all models.

        Args:
          before: of an earlier state of the same index. What was added to it is all that is read, if that is the only
            difference.
        """
        lines = [line for (line,) in self._read("PRAGMA user_version")]
        parts = _same(before.parts if before else (), lines)
        count, last = sum(part.models for part in parts), parts[-1].last if parts else 0
        known = before or Columns([], [], np.zeros((0, 4), np.int64))
        ids, architectures, places = known.ids[:count], known.architectures[:count], [known.places[:count]]
        for database, line in list(zip(self._databases, lines, strict=True))[max(len(parts) - 1, 0) :]:
            rows = database.read(
                "SELECT id, architecture, segment, row, ifnull(function_row, -1), signature_row, rowid FROM models"
                " WHERE rowid > ? ORDER BY rowid",
                (last,),
            )
            ids += [row[0] for row in rows]
            architectures += [row[1] for row in rows]
            places.append(np.array([row[2:6] for row in rows], np.int64).reshape(-1, 4))
            last = rows[-1][6] if rows else last
            added = parts.pop().models if parts and database is self._databases[len(parts) - 1] else 0
            parts.append(Part(line, added + len(rows), last))
        return Columns(ids, architectures, np.vstack(places), tuple(parts))

    def models(self, segments: Collection[int] | None = None) -> list[Model]:
        """Returns all models, or those whose vectors stand in some segments, in the order of the index."""
        where = "" if segments is None else f"WHERE segment IN ({', '.join(str(int(one)) for one in segments)})"
        return [self._model(row) for row in self._read(f"{SELECT} {where} ORDER BY models.rowid")]

    def get(self, name: str) -> Model | None:
        """Returns the model of an id."""
        return next(map(self._model, self._read(f"{SELECT} WHERE id = ?", (name,))), None)

    def unchanged(self, stat: Stat) -> Model | None:
        """Returns a model whose file has this identity."""
        where = "device = ? AND inode = ? AND size = ? AND mtime = ? AND record IS ?"
        return next(map(self._model, self._read(f"{SELECT} WHERE {where} LIMIT 1", tuple(stat))), None)

    def of_size(self, size: int) -> bool:
        """Whether a model's files have this many bytes: only then can its content be the same."""
        return bool(self._read("SELECT 1 FROM models WHERE size = ? LIMIT 1", (size,)))

    def of_content(self, digest: str) -> Model | None:
        """Returns a model of this content."""
        where = _has_digest("content_digest")
        return next(map(self._model, self._read(f"{SELECT} WHERE {where} LIMIT 1", (digest[:HEAD], digest))), None)

    def same_weights(self, digest: str) -> set[str]:
        """Returns the ids of models of these weights."""
        rows = self._read(f"SELECT id FROM models WHERE {_has_digest('weights_digest')}", (digest[:HEAD], digest))
        return {row[0] for row in rows}

    def column(self, name: str) -> list[Any]:
        """Returns a column of the table of models, in the order of the index."""
        return [row[0] for row in self._read(f"SELECT {name} FROM models ORDER BY rowid")]

    def paths(self) -> list[str]:
        """Returns the stored paths of all models, in the order of the index."""
        return [os.fsdecode(path) for path in self.column("path")]

    def metadata(self) -> list[dict[str, object]]:
        """Returns what came with all models, in the order of the index."""
        return [self._json(text) for text in self.column("metadata")]

    def metadata_keys(self) -> set[str]:
        """Returns the keys of what came with models."""
        return {key for text in set(self.column("metadata")) for key in self._json(text)}

    def metadata_values(self, key: str) -> list[object]:
        """Returns what came with each model by one key, in the order of the index; None where nothing did."""
        named = json.dumps(key)  # what does not have it need not be parsed
        return [self._json(text).get(key) if named in text else None for text in self.column("metadata")]

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise damaged(self.path, error) from error

    def annotations(self, name: str) -> dict[str, object]:
        """Returns what the user said of a model, as it stands in its metadata."""
        found = self._read("SELECT key, value FROM annotations WHERE id = ? ORDER BY key", (name,))
        return {key: as_metadata(key, value) for key, value in found}

    def all_annotations(self) -> dict[tuple[str, str], str | None]:
        """Returns what users noted, by id and key; of models too that are not there."""
        return {(row[0], row[1]): row[2] for row in self._read("SELECT id, key, value FROM annotations")}

    def problems(self) -> list[str]:
        """Returns what SQLite finds wrong with the file."""
        return [row[0] for row in self._read("PRAGMA integrity_check") if row[0] != "ok"]

    def _model(self, row: tuple) -> Model:
        try:
            stat = None if row[13] is None else Stat(row[13], row[14], row[11], row[12], row[2])
            texts = (tuple(json.loads(row[at])) for at in (8, 10))
            assumed, warnings = texts
            return Model(
                row[0], os.fsdecode(row[1]), stat, row[3], row[4], row[5], row[6], row[7], assumed, row[9], warnings,
                json.loads(row[15]), json.loads(row[16]), tuple(json.loads(row[21])), Place(*row[17:21]),
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise damaged(self.path, error) from error


SELECT = """SELECT id, path, record, content_digest, weights_digest, architecture, parameters, accuracy, assumed,
no_function, warnings, size, mtime, device, inode, hints, metadata, segment, row, function_row, signature_row,
tensors.names FROM models JOIN tensors ON models.tensors = tensors.number"""


def _same(before: Sequence[Part], lines: Sequence[int]) -> list[Part]:
    """The leading parts of databases that are there as they were, but for models that were added to the last."""
    found = []
    for part, line in zip(before, lines, strict=False):
        if not line or line != part.line:
            break
        found.append(part)
    return found


def as_metadata(key: str, note: str | None) -> object:
    """Returns a note as it stands in metadata, where base models are a list of names."""
    return (base_names(note) or [note]) if key == BASE else note


def _has_digest(column: str) -> str:
    """A condition that one of INDEXES finds; it takes the first HEAD characters of the digest, then the digest.

    The plus keeps SQLite from putting the digest in place of the column in both, which would leave the index unused.
    """
    return f"substr({column}, 1, {HEAD}) = ? AND +{column} = ?"
