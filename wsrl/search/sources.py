"""Checkpoints that names stand for: files, folders that are one checkpoint, folders that hold many, zoos, the hub."""

import os
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

from wsrl.checkpoint import CheckpointError
from wsrl.errors import InputError
from wsrl.readers import READERS
from wsrl.readers.huggingface import NO_WEIGHTS
from wsrl.readers.mapped import read_head
from wsrl.search.catalog import Stat
from wsrl.signature.digest import content_digest
from wsrl.wiring.tree import natural
from wsrl.zoo.manifest import MANIFEST, REQUIRED, read_manifest, record_hints

HUB = "hf://"
ONE = ("config.json", "adapter_config.json", "*.index.json")  # beside weights: the folder is one model
# A file of these names that no reader takes is reported; of other names there are many that are no checkpoints
WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.keras", "*.h5", "*.gguf", "*.onnx"),
    *("*.tflite", "*.npz"),
)
# Files of data that another file names: pattern, what is cut off its name, what is put there
PARTS = (
    *(("*.data-?????-of-?????", r"\.data-\d{5}-of-\d{5}$", ".index"), ("*.bin", r"\.bin$", ".xml")),
    *(("*-shard*of*", r".*", "model.json"), ("*.bin", r"\.bin$", "-weights_manifest.json")),
    ("*.weights.h5", r"_\d{5}\.weights\.h5$", ".weights.json"),
)
TOGETHER = (".json", ".xml", ".index", ".mlmodel", ".pb")  # files that name others beside and below them
LARGEST = 2**63  # SQLite's integers end there; some file systems number their files beyond


@dataclass(frozen=True)
class Source:
    """A checkpoint to be embedded.

    Attributes:
      id: of the model: its path as it was named, or its id in the manifest of a zoo.
      path: what `wsrl.readers.open_checkpoint` takes; a shard if `record` is set.
      record: position in a shard of many checkpoints.
      hints: what the file does not say; see `wsrl.encoder.checkpoint_encoder.Encoder.embed`.
      metadata: what is known of the model beside its file.
    """

    id: str
    path: str
    record: int | None = None
    hints: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def find_sources(
    names: str | Path | Iterable[str | Path], known: Container[tuple[int, int]] = ()
) -> tuple[list[Source], list[InputError]]:
    """Finds the checkpoints that names stand for, in natural order.

    A folder is one checkpoint if it is laid out as one: by Orbax, with a `config.json` or with an index of split files.
    A folder with a `models.jsonl` is a zoo. Any other folder stands for all checkpoints in it and in the folders below;
    hidden files and the state of optimizers are left out.

    Args:
      names: files, folders or addresses hf://owner/name.
      known: devices and inodes of files that are checkpoints, which are not looked into.

    Returns:
      The sources, each id once, and what is wrong with files that are named as weights or with lines of a zoo.

    Raises:
      InputError: nothing was named, a folder holds no checkpoint, or two models of zoos have one id.
    """
    walk = _Walk(known)
    named = [names] if isinstance(names, str | Path) else list(names)
    if not named:
        raise InputError("sources", "no checkpoint was given", "name a file or a folder")
    found: dict[str, Source] = {}
    for name in named:
        own = list(walk.sources(str(name)))
        if not own:
            raise InputError(name, "is a folder without checkpoints", "name a checkpoint, or a folder that holds some")
        for source in own:
            other = found.setdefault(source.id, source)
            if (other.path, other.record) != (source.path, source.record):
                raise InputError(source.path, f"has the id of {other.path}: {source.id!r}", "index one zoo alone")
    return list(found.values()), walk.problems


class _Walk:
    def __init__(self, known: Container[tuple[int, int]]):
        self.known = known
        self.folders: set[tuple[int, int]] = set()  # that were walked: links may lead round in circles
        self.problems: list[InputError] = []

    def sources(self, name: str) -> Iterator[Source]:
        folder = Path(name)
        if name.startswith(HUB) or not folder.is_dir():
            yield Source(printable_id(name), name)
        else:
            yield from self.below(folder)

    def below(self, folder: Path) -> Iterator[Source]:
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in self.folders:
                return
            self.folders.add((stat.st_dev, stat.st_ino))
            if (folder / MANIFEST).is_file():
                yield from self.zoo(folder)
                return
            entries = sorted(folder.iterdir(), key=lambda path: natural(printable_id(path.name)))
        except OSError as error:
            self.problems.append(
                InputError(folder, f"cannot be read ({error.strerror})", "allow reading it or name others")
            )
            return
        entries = [path for path in entries if not path.name.startswith(".")]
        if _is_one(folder, entries):
            yield Source(printable_id(str(folder)), str(folder))
            return
        for path in entries:
            if path.is_dir():
                yield from self.below(path)
            elif self.is_checkpoint(path):
                yield Source(printable_id(str(path)), str(path))

    def is_checkpoint(self, path: Path) -> bool:
        """Whether a reader takes a file for its own, or its name promises weights: opening it says what is wrong."""
        if any(fnmatch(path.name, pattern) for pattern in NO_WEIGHTS) or _is_part(path):
            return False
        try:
            stat = path.stat()
            if (stat.st_dev, stat.st_ino) in self.known:
                return True
        except OSError:  # a link to nowhere
            return any(fnmatch(path.name, pattern) for pattern in WEIGHTS)
        return bool(checkpoint_format(path)) or any(fnmatch(path.name, pattern) for pattern in WEIGHTS)

    def zoo(self, folder: Path) -> Iterator[Source]:
        records, problems = read_manifest(folder)
        self.problems += [InputError(folder, line, "correct its line of the manifest") for line in problems]
        for record in records:
            about = {key: getattr(record, key) for key in REQUIRED} | record.extra
            about = {key: value for key, value in about.items() if key not in ("id", "path", "record")}
            yield Source(record.id, str(folder / record.path), record.extra.get("record"), record_hints(record), about)


def checkpoint_format(path: Path) -> str:
    """Returns which reader takes a file or folder for its own; empty if none does or it cannot be read."""
    try:
        head = read_head(path)
        matching = (name for name, module in READERS.items() if _reader(module).matches(head, path))
        return next(matching, "")
    except (CheckpointError, OSError):
        return ""


def _reader(module: str) -> Any:
    return import_module(f"wsrl.readers.{module}")


def _is_part(path: Path) -> bool:
    """Whether a file holds data of another one, which lies beside it."""
    names = (re.sub(cut, put, path.name, count=1) for kind, cut, put in PARTS if fnmatch(path.name, kind))
    return any(name != path.name and path.with_name(name).is_file() for name in names)


def _is_one(folder: Path, entries: list[Path]) -> bool:
    beside = any(fnmatch(path.name, pattern) for path in entries for pattern in ONE)
    return bool(own := checkpoint_format(folder)) and (own != "Hugging Face" or beside)


def printable_id(name: str) -> str:
    """Returns the name as text that can be stored: bytes that are no UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def file_stat(path: str, record: int | None = None) -> Stat | None:
    """Returns what changes when a checkpoint does, or None for an address of the hub.

    Raises:
      OSError: it is not there.
    """
    if path.startswith(HUB):
        return None
    own = Path(path).stat()
    stats = [os.stat(below) for below in _belonging(Path(path))]
    size, mtime = sum(each.st_size for each in stats), sum(each.st_mtime_ns for each in stats)
    return Stat(own.st_dev % LARGEST, own.st_ino % LARGEST, size, mtime % LARGEST, record)


def whole_digest(path: str) -> str | None:
    """Returns the digest of a checkpoint's content, or None if more files belong to it than the digest covers.

    Raises:
      CheckpointError: it cannot be read.
    """
    own = Path(path)
    return content_digest(own) if own.is_dir() or _belonging(own) == [own] else None


def _belonging(path: Path) -> list[Path]:
    """The files of a checkpoint: a `config.json` beside it, data of ONNX and the parts that an index names too."""
    if path.is_dir():
        return [below for below in path.rglob("*") if below.is_file()]
    if path.suffix in TOGETHER:
        return [below for below in path.parent.rglob("*") if below.is_file()]
    beside = (path.with_name("config.json"), path.with_name(f"{path.name}.data"), path.with_name(f"{path.name}_data"))
    return [path, *(below for below in beside if below.is_file())]


def relative(directory: Path, path: str) -> str:
    """Returns the path as an index in `directory` stores it: relative to that folder, so that both can move."""
    return path if path.startswith(HUB) else Path(os.path.relpath(path, directory)).as_posix()


def located(directory: Path, stored: str) -> str:
    """Returns the path that `relative` made what is stored of."""
    return stored if stored.startswith(HUB) else os.path.normpath(directory / stored)
