"""Writes databases of models; see `wsrl.search.catalog`."""

import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path

from wsrl.search.catalog import HEAD, Change, Model, Stat
from wsrl.search.database import Database

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

INDEXES = f"""
CREATE INDEX IF NOT EXISTS by_weights ON models (substr(weights_digest, 1, {HEAD}));
CREATE INDEX IF NOT EXISTS by_content ON models (substr(content_digest, 1, {HEAD}));
CREATE INDEX IF NOT EXISTS by_size ON models (size);
CREATE INDEX IF NOT EXISTS by_inode ON models (inode);
"""  # without them, as in an index of an earlier version, all rows are read
TENSORS = "(SELECT number FROM tensors WHERE names = ?)"


def write_database(before: Sequence[Path], new: Path, change: Change, first: int = 1) -> None:
    """Writes a database: those before, as one, with a change. A crash leaves a file that nobody reads.

    Args:
      before: databases that the new one takes the place of, in the order of the index; none for an empty one.
      new: its path.
      change: what becomes different.
      first: number of the first row, where there is none before.
    """
    new.unlink(missing_ok=True)
    if before:
        shutil.copyfile(before[0], new)
    connection = sqlite3.connect(new)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # nobody reads it before it is whole
        connection.execute("PRAGMA synchronous = OFF")
        if not before:
            connection.executescript(SCHEMA)
        connection.executescript(INDEXES)
        count = "SELECT count(*) FROM models"
        ((old,),) = connection.execute(count)
        added = sum(_append(connection, path) for path in before[1:])
        connection.executemany(
            "UPDATE OR REPLACE annotations SET id = ? WHERE id = ?", [(b, a) for a, b in change.renamed.items()]
        )
        for name in change.removed:
            connection.execute("DELETE FROM models WHERE id = ?", (name,))
            connection.execute("DELETE FROM annotations WHERE id = ?", (name,))
        connection.executemany("DELETE FROM models WHERE id = ?", [(name,) for name in change.lost])
        for number, model in enumerate(change.models):
            _insert(connection, model)
            if not (before or number):
                connection.execute("UPDATE models SET rowid = ?", (first,))  # the next ones follow it
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
        if not old or change.renamed or change.moved or after != old + added + len(change.models):
            connection.execute(f"PRAGMA user_version = {_line(connection, change)}")
    finally:
        connection.close()
    with open(new, "rb") as file:
        os.fsync(file.fileno())


def _append(connection: sqlite3.Connection, path: Path) -> int:
    """Adds the models and the notes of another database, whose rows keep their numbers; returns how many models."""
    names = [row[1] for row in connection.execute("PRAGMA table_info(models)")]
    columns = ", ".join(["rowid", *names[:-1]])
    marks = ", ".join("?" * len(names))
    other = Database(path)
    connection.executemany("INSERT OR IGNORE INTO tensors (names) VALUES (?)", other.read("SELECT names FROM tensors"))
    rows = other.read(f"SELECT models.{columns}, names FROM models JOIN tensors ON tensors = number ORDER BY 1")
    connection.executemany(f"INSERT INTO models ({columns}, tensors) VALUES ({marks}, {TENSORS})", rows)
    connection.executemany("INSERT INTO annotations VALUES (?, ?, ?)", other.read("SELECT * FROM annotations"))
    return len(rows)


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
    connection.execute(f"INSERT OR REPLACE INTO models VALUES ({marks}, {TENSORS})", (*row, names))
