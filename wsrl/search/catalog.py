"""What an index knows of its models beside their vectors: an SQLite database, which is never changed once committed.

A commit copies the database under a new name and changes the copy, so a reader sees one state and a crash leaves the
old one.
"""

import json
import os
import shlex
import shutil
import sqlite3
import weakref
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from jaxtyping import Int64

from wsrl.errors import InputError
from wsrl.readers.declared import BASE, base_names

SCHEMA = """
CREATE TABLE models (
    id TEXT PRIMARY KEY, path BLOB, record INTEGER, content_digest TEXT, weights_digest TEXT, architecture TEXT,
    parameters INTEGER, accuracy REAL, assumed TEXT, no_function TEXT, warnings TEXT, size INTEGER, mtime INTEGER,
    device INTEGER, inode INTEGER, hints TEXT, metadata TEXT, segment INTEGER, row INTEGER, function_row INTEGER,
    signature_row INTEGER, tensors INTEGER
);
CREATE TABLE tensors (number INTEGER PRIMARY KEY, names TEXT UNIQUE);  -- models of one architecture share a row
CREATE TABLE annotations (id TEXT, key TEXT, value TEXT, PRIMARY KEY (id, key));
"""

HEAD = 8  # characters of a digest that find nearly all rows of it, and take a tenth of the bytes
INDEXES = f"""
CREATE INDEX IF NOT EXISTS by_weights ON models (substr(weights_digest, 1, {HEAD}));
CREATE INDEX IF NOT EXISTS by_content ON models (substr(content_digest, 1, {HEAD}));
CREATE INDEX IF NOT EXISTS by_size ON models (size);
CREATE INDEX IF NOT EXISTS by_inode ON models (inode);
"""  # without them, as in an index of an earlier version, all rows are read


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


class Columns(NamedTuple):
    """What is held of all models of a database, in the order of the index.

    Attributes:
      ids, architectures: of the models.
      places: segment, row of the weights, of the function (-1 for none) and of the signatures.
      line: tells a database from those that are no more than it with models added; 0 in one of an earlier version.
      last: the highest number of a row.
    """

    ids: list[str]
    architectures: list[str]
    places: Int64[np.ndarray, "n 4"]
    line: int = 0
    last: int = 0


class Catalog:
    """A committed database, opened for reading.

    Raises:
      FileNotFoundError: it is not there.
      InputError: it is no database of an index; any method may find that.
    """

    def __init__(self, path: Path):
        self.path = path
        address = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            path.stat()
            raise damaged(path, error) from error
        weakref.finalize(self, self._connection.close)

    def _read(self, statement: str, values: tuple = ()) -> list[tuple]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise damaged(self.path, error) from error

    def columns(self, before: Columns | None = None) -> Columns:
        """Returns columns of all models.

        Args:
          before: of an earlier state of the same index. What was added to it is all that is read, if that is the only
            difference.
        """
        ((line,),) = self._read("PRAGMA user_version")
        known = before if before and line and before.line == line else Columns([], [], np.zeros((0, 4), np.int64))
        rows = self._read(
            "SELECT id, architecture, segment, row, ifnull(function_row, -1), signature_row, rowid FROM models"
            " WHERE rowid > ? ORDER BY rowid",
            (known.last,),
        )
        places = np.array([row[2:6] for row in rows], np.int64).reshape(-1, 4)
        ids, architectures = ([row[column] for row in rows] for column in (0, 1))
        last = rows[-1][6] if rows else known.last
        return Columns(
            known.ids + ids, known.architectures + architectures, np.vstack([known.places, places]), line, last
        )

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
        try:
            return [json.loads(text) for text in self.column("metadata")]
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


def as_metadata(key: str, note: str | None) -> object:
    """Returns a note as it stands in metadata, where base models are a list of names."""
    return (base_names(note) or [note]) if key == BASE else note


def _has_digest(column: str) -> str:
    """A condition that one of INDEXES finds; it takes the first HEAD characters of the digest, then the digest.

    The plus keeps SQLite from putting the digest in place of the column in both, which would leave the index unused.
    """
    return f"substr({column}, 1, {HEAD}) = ? AND +{column} = ?"


def write_database(old: Path | None, new: Path, change: Change) -> None:
    """Writes a database: the old one (or an empty one) with a change. A crash leaves a file that nobody reads."""
    new.unlink(missing_ok=True)
    if old is not None:
        shutil.copyfile(old, new)
    connection = sqlite3.connect(new)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # nobody reads it before it is whole
        connection.execute("PRAGMA synchronous = OFF")
        if old is None:
            connection.executescript(SCHEMA)
        connection.executescript(INDEXES)
        count = "SELECT count(*) FROM models"
        ((before,),) = connection.execute(count)
        connection.executemany(
            "UPDATE OR REPLACE annotations SET id = ? WHERE id = ?", [(b, a) for a, b in change.renamed.items()]
        )
        for name in change.removed:
            connection.execute("DELETE FROM models WHERE id = ?", (name,))
            connection.execute("DELETE FROM annotations WHERE id = ?", (name,))
        connection.executemany("DELETE FROM models WHERE id = ?", [(name,) for name in change.lost])
        for model in change.models:
            _insert(connection, model)
        connection.executemany(
            "UPDATE models SET segment = ?, row = ?, function_row = ?, signature_row = ? WHERE id = ?",
            [(*place, name) for name, place in change.moved.items()],
        )
        for (name, key), value in change.annotations.items():
            connection.execute("DELETE FROM annotations WHERE id = ? AND key = ?", (name, key))
            if value is not None:
                connection.execute("INSERT INTO annotations VALUES (?, ?, ?)", (name, key, value))
        connection.commit()
        ((after,),) = connection.execute(count)
        if not before or change.renamed or change.moved or after != before + len(change.models):
            connection.execute(f"PRAGMA user_version = {_line(connection, change)}")
    finally:
        connection.close()
    with open(new, "rb") as file:
        os.fsync(file.fileno())


def _line(connection: sqlite3.Connection, change: Change) -> int:
    """A number of the rows that a database begins with: see `Columns`."""
    ((line,),) = connection.execute("PRAGMA user_version")
    models = [(model.id, model.architecture, *model.place) for model in change.models]
    changed = (line, [*change.renamed.items()], change.removed, change.lost, models, [*change.moved.items()])
    return zlib.crc32(json.dumps(changed).encode()) % 2**31 or 1


def _insert(connection: sqlite3.Connection, model: Model) -> None:
    names = json.dumps(model.tensors)
    connection.execute("INSERT OR IGNORE INTO tensors (names) VALUES (?)", (names,))
    stat = model.stat or Stat(None, None, None, None)  # pyright: ignore[reportArgumentType]
    row = (
        model.id, os.fsencode(model.path), stat.record, model.content_digest, model.weights_digest, model.architecture,
        model.parameters, model.accuracy, json.dumps(model.assumed), model.no_function, json.dumps(model.warnings),
        stat.size, stat.mtime, stat.device, stat.inode, json.dumps(model.hints), json.dumps(model.metadata),
        *model.place,
    )  # fmt: skip
    marks = ", ".join("?" * len(row))
    select = "(SELECT number FROM tensors WHERE names = ?)"
    connection.execute(f"INSERT OR REPLACE INTO models VALUES ({marks}, {select})", (*row, names))


class DamagedError(InputError):
    """A file of an index is not as it was written."""


def damaged(path: Path, error: object) -> DamagedError:
    """The error of a file of an index that is not as it was written; one that tells so already stays."""
    if isinstance(error, DamagedError):
        return error
    command = f"wsrl verify --repair --index {shlex.quote(str(path.parent))}"
    return DamagedError(path, f"damaged ({error})", f"mend it by `{command}`")
