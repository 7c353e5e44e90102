"""Parts of a run: files of Parquet, each written whole or not at all, and never changed.

    OUT/run.json                       the encoder, and the run whose names are those of the index
    OUT/names/RUN/part-DIGEST.parquet  checkpoints under their names, with the keys of their content; see `Listed`
    OUT/vectors/part-DIGEST.parquet    what the encoder said, by key; see `wsrl.embedded.Embedded`
    OUT/letters/part-DIGEST.parquet    what can never be embedded, and why; see `Letter`
    OUT/retry/RUN/part-DIGEST.parquet  what could not be embedded in one run, and may be in another

A part is named by the digest of what it is about, so a machine that repeats the work of another writes the same file.
OUT is a folder, or an address that a file system of Beam knows, such as gs://bucket/folder.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.files import write_atomically
from wsrl.pipelines.listed import Letter, Listed
from wsrl.search.sources import Source

RUN = "run.json"
NAMES, VECTORS, LETTERS, RETRY = "names", "vectors", "letters", "retry"
OF_RUNS = (NAMES, RETRY)  # a folder for each run
TOLD = ("content_digest", "weights_digest", "architecture", "parameters", "no_function", "accuracy", "unread")
LISTS = ("assumed", "warnings")


def write_names(out: str, run: str, names: Sequence[Listed]) -> None:
    """Writes a part of the names of a run."""
    rows = [
        {
            **{"id": name.source.id, "path": name.source.path, "record": name.source.record, "version": name.version},
            **{"hints": json.dumps(name.source.hints), "metadata": json.dumps(name.source.metadata)},
            **{"key": name.key, "size": name.size, "files": list(name.files)},
        }
        for name in names
    ]
    _write(out, f"{NAMES}/{run}", [name.source.id for name in names], rows)


def read_names(path: str) -> Iterator[Listed]:
    """Yields the names of a part; raises InputError if it is damaged."""
    for row in _rows(path):
        source = Source(
            row["id"], row["path"], row["record"], json.loads(row["hints"]), json.loads(row["metadata"])
        )  # fmt: skip
        yield Listed(source, row["version"], row["key"], row["size"], tuple(row["files"]))


def write_vectors(out: str, rows: Sequence[tuple[str, Embedded]]) -> None:
    """Writes what the encoder said of checkpoints, by their keys."""
    records = [
        {
            "key": key,
            **{name: getattr(row, name) for name in TOLD},
            **{name: list(getattr(row, name)) for name in LISTS},
            "weights": row.weights.astype(np.float32),
            "function": None if row.function is None else row.function.astype(np.float32),
            "tensors": list(row.tensors),
            "signatures": np.concatenate([np.zeros(0), *row.tensors.values()]).astype(np.float32),
        }
        for key, row in rows
    ]
    _write(out, VECTORS, [key for key, _ in rows], records)


def read_vectors(path: str) -> Iterator[tuple[str, Embedded]]:
    """Yields what the encoder said, by keys; raises InputError if the part is damaged."""
    for row in _rows(path):
        names = row.pop("tensors")
        signatures = np.array(row.pop("signatures"), np.float32).reshape(len(names), -1)
        vectors = {name: row.pop(name) for name in ("weights", "function")}
        arrays: dict[str, Any] = {
            name: None if own is None else np.array(own, np.float32) for name, own in vectors.items()
        }
        key = row.pop("key")
        told = {name: tuple(row.pop(name)) for name in LISTS}
        yield key, Embedded(id=key, tensors=dict(zip(names, signatures, strict=True)), **arrays, **told, **row)


def write_letters(out: str, run: str, letters: Sequence[Letter]) -> None:
    """Writes why checkpoints were not embedded; those without a key are of one run alone."""
    for kind, lasting in ((LETTERS, True), (f"{RETRY}/{run}", False)):
        own = [letter for letter in letters if bool(letter.key) == lasting]
        if own:
            _write(out, kind, ["\0".join(letter) for letter in own], [letter._asdict() for letter in own])


def read_letters(path: str) -> Iterator[Letter]:
    """Yields why checkpoints were not embedded; raises InputError if the part is damaged."""
    for row in _rows(path):
        yield Letter(**row)


def read_keys(path: str) -> list[str]:
    """Returns the keys of a part of vectors or letters; raises InputError if it is damaged."""
    return [row["key"] for row in _rows(path, ["key"])]


def find_parts(out: str, kind: str, run: str = "*") -> list[str]:
    """Returns the paths of all parts of a kind, sorted; where each run has its own, of one run or of all."""
    systems = require("apache_beam.io.filesystems", "beam").FileSystems
    below = f"{run}/" if kind in OF_RUNS else ""
    matches = systems.match([f"{out}/{kind}/{below}part-*.parquet"])[0].metadata_list
    return sorted(match.path for match in matches)


def delete_parts(paths: Sequence[str]) -> None:
    """Deletes parts that nothing needs any more."""
    if paths:
        require("apache_beam.io.filesystems", "beam").FileSystems.delete(list(paths))


def read_run(out: str) -> dict[str, str]:
    """Returns what is known of the folder: `encoder`, and `run` once one has listed all; empty for a new one.

    Raises:
      InputError: it belongs to something else.
    """
    systems = require("apache_beam.io.filesystems", "beam").FileSystems
    try:
        if not systems.exists(f"{out}/{RUN}"):
            return {}
        with systems.open(f"{out}/{RUN}") as file:
            found = json.loads(file.read())
        return {"encoder": str(found["encoder"]), "run": str(found["run"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out}/{RUN}", f"cannot be read ({error})", "name another --out") from error


def write_run(out: str, encoder: str, run: str) -> None:
    """Notes what the parts are of; see `read_run`."""
    _write_bytes(f"{out}/{RUN}", json.dumps({"encoder": encoder, "run": run}).encode())


def _write(out: str, kind: str, about: Sequence[str], rows: list[dict[str, Any]]) -> None:
    pyarrow, parquet = require("pyarrow", "beam"), require("pyarrow.parquet", "beam")
    name = hashlib.sha256("\n".join(about).encode(errors="backslashreplace")).hexdigest()[:32]
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, _schema(kind.partition("/")[0])), content)
    _write_bytes(f"{out}/{kind}/part-{name}.parquet", content.getvalue())


def _schema(kind: str) -> Any:
    pyarrow = require("pyarrow", "beam")
    text, numbers = pyarrow.string(), pyarrow.list_(pyarrow.float32())
    fields = {
        NAMES: dict.fromkeys(("id", "path", "version", "hints", "metadata", "key"), text)
        | {"record": pyarrow.int64(), "size": pyarrow.int64(), "files": pyarrow.list_(text)},
        VECTORS: dict.fromkeys(("key", "content_digest", "weights_digest", "architecture", "no_function"), text)
        | {"parameters": pyarrow.int64(), "unread": pyarrow.int64(), "accuracy": pyarrow.float64()}
        | {"weights": numbers, "function": numbers, "signatures": numbers}
        | dict.fromkeys(("assumed", "warnings", "tensors"), pyarrow.list_(text)),
        LETTERS: dict.fromkeys(Letter._fields, text),
        RETRY: dict.fromkeys(Letter._fields, text),
    }
    return pyarrow.schema(fields[kind].items())


def _write_bytes(path: str, content: bytes) -> None:
    if "://" not in path:
        write_atomically(Path(path), content)
        return
    with require("apache_beam.io.filesystems", "beam").FileSystems.create(path) as file:
        file.write(content)  # object stores show a file when it is closed


def _rows(path: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    parquet = require("pyarrow.parquet", "beam")
    try:
        with require("apache_beam.io.filesystems", "beam").FileSystems.open(path) as file:
            return parquet.read_table(io.BytesIO(file.read()), columns=columns).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(path, f"damaged ({type(error).__name__})", "delete it and run the command again") from error
