"""The manifest of a zoo: one JSON object a line for each checkpoint, in DIR/models.jsonl."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.program.hints import HINTS

MANIFEST = "models.jsonl"
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Record:
    """One checkpoint of a zoo.

    Attributes:
        id: unique name.
        path: file, relative to the zoo's directory, "/" between folders; a shard where `extra` has the key `record`,
            the position in it.
        task, dataset: what the model was trained on.
        architecture: family of the architecture.
        activation: relu, tanh, gelu or another name.
        seed: of the training run.
        parent: id of the checkpoint that training started from, or None.
        step: training steps of the run so far.
        accuracy: share of held-out images classified correctly, 0 to 1.
        split: train, validation, test or None.
        extra: further keys of the line.
    """

    id: str
    path: str
    task: str
    dataset: str
    architecture: str
    activation: str
    seed: int
    parent: str | None
    step: int
    accuracy: float
    split: str | None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """A required field or a further key."""
        return getattr(self, key) if key in REQUIRED else self.extra.get(key, default)


REQUIRED = tuple(field.name for field in dataclasses.fields(Record) if field.name != "extra")
TEXTS = ("id", "path", "task", "dataset", "architecture", "activation")


def append_records(directory: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Add records to the manifest of a zoo, all of them or none."""
    path = Path(directory) / MANIFEST
    before = path.read_bytes() if path.exists() else b""
    lines = [json.dumps(_to_json(record), allow_nan=False) + "\n" for record in records]
    write_atomically(path, before + "".join(lines).encode())


def _to_json(record: Record) -> dict[str, Any]:
    return {key: getattr(record, key) for key in REQUIRED} | record.extra


def read_manifest(directory: str | os.PathLike[str]) -> tuple[list[Record], list[str]]:
    """Read the manifest of a zoo.

    A line that cannot be used (invalid JSON, a key missing or of the wrong type, an id seen before, a path
    outside the directory, a missing file, an accuracy or a position that is no number) is skipped. Files are
    looked for, once each, and not opened.

    `run` and `lineage`, where a line does not give them, become the id and the root of the parents.

    Returns the records and one line of text for each problem. Raises InputError where no manifest or no
    usable record is found.
    """
    path = Path(directory) / MANIFEST
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "name a directory with a zoo") from error
    records: dict[str, Record] = {}
    files: set[str] = set()  # that were looked at: a shard holds many records
    problems = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _from_line(line)
            if record.id in records:
                raise ValueError(f"id {record.id!r} again, the first one is kept")
            if record.path not in files:
                _check_file(path.parent, record.path)
                files.add(record.path)
            records[record.id] = record
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if not records:
        reason = f"no usable record ({problems[0]})" if problems else "no record"
        raise InputError(path, reason, "build the zoo again")
    return _with_lineage(records), problems


def _check_file(directory: Path, name: str) -> None:
    """Check that a file lies in a directory. Raises ValueError that says what is wrong."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise ValueError(f"path {name!r} leaves the directory")
    file = directory / name
    if not file.is_file():
        raise ValueError(f"no file {name}")
    if not file.resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"path {name!r} leaves the directory")


def _from_line(line: bytes) -> Record:
    """Check one line. Raises ValueError that says what is wrong."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    missing = [key for key in REQUIRED if key not in fields]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    for key in TEXTS:
        if not isinstance(fields[key], str) or not fields[key]:
            raise ValueError(f"{key} is not text")
    for key in ("seed", "step"):
        if type(fields[key]) is not int:
            raise ValueError(f"{key} is not a whole number")
        if fields[key] < 0:
            raise ValueError(f"{key} is negative")
    if not (fields["parent"] is None or isinstance(fields["parent"], str)):
        raise ValueError("parent is neither text nor null")
    if fields["split"] not in (*SPLITS, None):
        raise ValueError(f"split is none of {', '.join(SPLITS)}, null")
    accuracy = fields["accuracy"]
    if type(accuracy) not in (int, float) or not math.isfinite(accuracy) or not 0 <= accuracy <= 1:
        raise ValueError("accuracy is not a number from 0 to 1")
    extra = {key: fields[key] for key in fields if key not in REQUIRED}
    for key in ("run", "lineage"):
        if not isinstance(extra.get(key, ""), str):
            raise ValueError(f"{key} is not text")
    position = extra.get("record", 0)
    if type(position) is not int or position < 0:
        raise ValueError("record is not a whole number from 0")
    return Record(**{key: fields[key] for key in REQUIRED} | {"accuracy": float(accuracy), "extra": extra})


def _with_lineage(records: dict[str, Record]) -> list[Record]:
    """Fill in `run` and `lineage` where they are missing."""
    filled = []
    for record in records.values():
        if not {"run", "lineage"} <= record.extra.keys():
            told = {"run": record.id, "lineage": _root(record, records)} | record.extra
            record = dataclasses.replace(record, extra=told)
        filled.append(record)
    return filled


def _root(record: Record, records: dict[str, Record]) -> str:
    """Id at the end of the parents; of a cycle, its first id in the alphabet."""
    chain = [record.id]
    parent = record.parent
    while parent is not None and parent not in chain:
        chain.append(parent)
        parent = records[parent].parent if parent in records else None
    return chain[-1] if parent is None else min(chain[chain.index(parent) :])


def assign_splits(records: Sequence[Record], seed: int = 0) -> list[Record]:
    """Give every record a split: about 65 % of the groups train, 10 % validation and 25 % test.

    A group holds all records that a chain of shared tasks, lineages or parents connects, so that no task and
    no lineage is on two splits. Raises InputError where there are fewer than three groups.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes: dict[tuple[str, str], int] = {}
    edges = [
        (i, len(records) + nodes.setdefault(node, len(nodes)))
        for i, record in enumerate(records)
        for node in (
            ("task", record.task),
            ("lineage", record.get("lineage", record.id)),
            ("checkpoint", record.id),
            ("checkpoint", record.parent or record.id),
        )
    ]
    size = len(records) + len(nodes)
    rows, columns = np.array(edges).T
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    number, group = connected_components(graph, directed=False)
    if number < 3:
        reason = f"{number} unrelated groups of tasks and lineages, too few for three splits"
        raise InputError(MANIFEST, reason, "add models of other tasks, or give each line a split")
    order = np.random.default_rng(seed).permutation(number)
    tests, validations = max(1, round(0.25 * number)), max(1, round(0.1 * number))
    split_of = np.array(["train"] * number, dtype="<U10")
    split_of[order[:tests]] = "test"
    split_of[order[tests : tests + validations]] = "validation"
    return [dataclasses.replace(record, split=str(split_of[group[i]])) for i, record in enumerate(records)]


def record_hints(record: Record) -> dict[str, object]:
    """What a line of the manifest says of its network beside the weights: those of `HINTS` that it has."""
    return {key: record.get(key) for key in HINTS if record.get(key) is not None}
