"""Checkpoints that names stand for: files, folders that are one checkpoint, folders that hold many, zoos, the hub."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from wsrl.checkpoint import CheckpointError
from wsrl.errors import InputError
from wsrl.readers import READERS
from wsrl.readers.huggingface import NO_WEIGHTS
from wsrl.readers.mapped import read_head
from wsrl.readers.npz import holds_data
from wsrl.search.file_identity import HUB, printable_id
from wsrl.search.stores import OLLAMA, Shelf, is_ollama, ollama_blobs, shelves, without_models
from wsrl.wiring.tree import natural
from wsrl.zoo.manifest import MANIFEST, REQUIRED, read_manifest, record_hints

ONE = ("config.json", "adapter_config.json", "*.index.json")  # beside weights: the folder is one model
# A file of these names that no reader takes is reported; of other names there are many that are no checkpoints
WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.keras", "*.h5", "*.gguf", "*.onnx"),
    *("*.tflite", "*.npz"),
)
NPZ = "NumPy npz"  # name of its reader
CARD = ("license", "base_model", "pipeline_tag", "library_name", "tags")  # of a model card that becomes metadata
# Files of data that another file names: pattern, what is cut off its name, what is put there
PARTS = (
    *(("*.data-?????-of-?????", r"\.data-\d{5}-of-\d{5}$", ".index"), ("*.bin", r"\.bin$", ".xml")),
    *(("*-shard*of*", r".*", "model.json"), ("*.bin", r"\.bin$", "-weights_manifest.json")),
    ("*.weights.h5", r"_\d{5}\.weights\.h5$", ".weights.json"),
)


class Named(NamedTuple):
    """A source as it was named when an index was made, and where it is now; models keep the ids of the former."""

    shown: str
    path: str


Names = str | Path | Iterable[str | Path] | Iterable[Named]


@dataclass(frozen=True)
class Source:
    """A checkpoint to be embedded.

    Attributes:
      id: of the model: its path as it was named, or its id in the manifest of a zoo.
      path: what `wsrl.readers.open_checkpoint` takes; a shard if `record` is set.
      record: position in a shard of many checkpoints.
      hints: what the file does not say; see `wsrl.encoder.checkpoint_encoder.Encoder.embed`.
      metadata: what is known of the model beside its file.
      by_store: whether the id is the name that an application gives it, which other files may have too.
    """

    id: str
    path: str
    record: int | None = None
    hints: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    by_store: bool = False


def as_named(names: Names) -> list[Named]:
    """Returns what was named; what is a `Named` already stays as it is. Raises InputError for an empty name."""
    listed = [names] if isinstance(names, str | Path) else list(names)
    if "" in listed:
        raise InputError("sources", "one name is empty", "name a file or a folder")
    return [name if isinstance(name, Named) else Named(str(name), str(name)) for name in listed]


class Found(NamedTuple):
    """What `find_sources` found.

    Attributes:
      sources: each id once.
      problems: what is wrong with files that are named as weights, with folders, or with lines of a zoo.
      skipped: files that look like weights and are none: states of optimizers, logs, data.
    """

    sources: list[Source]
    problems: list[InputError]
    skipped: list[str]


def find_sources(names: Names, known: Container[tuple[int, int]] = (), taken: Mapping[str, str] | None = None) -> Found:
    """Finds the checkpoints that names stand for, in natural order.

    A folder is one checkpoint if it is laid out as one: by Orbax, with a `config.json` or with an index of split files.
    A folder with a `models.jsonl` is a zoo. Any other folder stands for all checkpoints in it and in the folders below;
    hidden files, the state of optimizers and tables of numbers are left out. Where an application keeps its models
    (`wsrl.search.stores`), they have the names that it shows; one whose name is taken has its path as id.

    Args:
      names: files, folders or addresses hf://owner/name.
      known: devices and inodes of files that are checkpoints, which are not looked into.
      taken: paths by the ids that are taken.

    Raises:
      InputError: nothing was named, a folder holds no checkpoint, or two models of zoos have one id.
    """
    walk = _Walk(known)
    named = as_named(names)
    if not named:
        raise InputError("sources", "no checkpoint was given", "name a file or a folder")
    found: dict[str, Source] = {}
    for name in named:
        walked = walk.has_walked(name.path)  # as a part of another one
        own = [_renamed(source, name) for source in walk.sources(name.path)]
        if not own and not walked:
            mend = "name a checkpoint, or a folder that holds some"
            raise InputError(name.path, "is a folder without checkpoints", mend)
        for source in own:
            if source.by_store and _other(source, found, taken or {}):
                source = replace(source, id=printable_id(source.path))
            other = found.setdefault(source.id, source)
            if (other.path, other.record) != (source.path, source.record):
                raise InputError(source.path, f"has the id of {other.path}: {source.id!r}", "index one zoo alone")
    return Found(list(found.values()), walk.problems, walk.skipped)


def _other(source: Source, found: Mapping[str, Source], taken: Mapping[str, str]) -> bool:
    """Whether another file has the id of a source."""
    own = found[source.id].path if source.id in found else taken.get(source.id, source.path)
    return own != source.path


def _renamed(source: Source, name: Named) -> Source:
    """The source with the id that it has below what was named."""
    if name.shown == name.path or not source.id.startswith(was := printable_id(name.path)):
        return source
    return replace(source, id=printable_id(name.shown) + source.id[len(was) :])


class _Walk:
    def __init__(self, known: Container[tuple[int, int]]):
        self.known = known
        self.folders: set[tuple[int, int]] = set()  # that were walked: links may lead round in circles
        self.problems: list[InputError] = []
        self.skipped: list[str] = []

    def has_walked(self, name: str) -> bool:
        """Whether all that a folder holds has been found already."""
        folder = Path(name)
        return folder.is_dir() and (folder.stat().st_dev, folder.stat().st_ino) in self.folders

    def sources(self, name: str) -> Iterator[Source]:
        folder = Path(name)
        if name.startswith(HUB) or not folder.is_dir():
            yield Source(printable_id(name), name)
        else:
            yield from self.below(folder, None)

    def below(self, folder: Path, shelf: Shelf | None) -> Iterator[Source]:
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in self.folders:
                return
            self.folders.add((stat.st_dev, stat.st_ino))
            if (folder / MANIFEST).is_file():
                yield from self.zoo(folder)
                return
            entries = sorted(folder.iterdir(), key=lambda path: natural(printable_id(path.name)))
            own = None if shelf else shelves(folder, entries)
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
            self.problems.append(InputError(folder, reason, "allow reading it or name others"))
            return
        if own is not None:
            for each in own:
                self.folders.discard((stat.st_dev, stat.st_ino))  # the shelf may be this folder
                yield from self.below(each.root, each)
            return
        if is_ollama(folder):
            yield from self.ollama(folder)
            return
        entries = [path for path in entries if not path.name.startswith(".")]
        if _is_one(folder, entries):
            yield self.source(folder, shelf, card_of(folder))
            return
        self.skipped += map(str, aside := without_models(entries))
        for path in entries:
            if path in aside:
                continue
            if path.is_dir():
                yield from self.below(path, shelf)
            elif self.is_checkpoint(path):
                yield self.source(path, shelf, {})

    def source(self, path: Path, shelf: Shelf | None, about: Mapping[str, Any]) -> Source:
        if shelf is None:
            return Source(printable_id(str(path)), str(path), metadata=dict(about))
        metadata = {**about, **shelf.about_of(path)}
        return Source(printable_id(shelf.id_of(path)), str(path), metadata=metadata, by_store=True)

    def ollama(self, folder: Path) -> Iterator[Source]:
        for blob in ollama_blobs(folder):
            if isinstance(blob, InputError):
                self.problems.append(blob)
            else:
                also = {"names": blob.names} if len(blob.names) > 1 else {}
                about = {"store": OLLAMA, **also}
                yield Source(printable_id(blob.names[0]), str(blob.path), metadata=about, by_store=True)

    def is_checkpoint(self, path: Path) -> bool:
        """Whether a reader takes a file for its own, or its name promises weights: opening it says what is wrong."""
        if _is_part(path):
            return False
        if any(fnmatch(path.name, pattern) for pattern in NO_WEIGHTS):
            self.skipped += [str(path)] if any(fnmatch(path.name, pattern) for pattern in WEIGHTS) else []
            return False
        try:
            stat = path.stat()
            if (stat.st_dev, stat.st_ino) in self.known:
                return True
        except OSError:  # a link to nowhere
            return any(fnmatch(path.name, pattern) for pattern in WEIGHTS)
        own = checkpoint_format(path)
        if own == NPZ and _is_data(path):
            self.skipped.append(str(path))
            return False
        return bool(own) or any(fnmatch(path.name, pattern) for pattern in WEIGHTS)

    def zoo(self, folder: Path) -> Iterator[Source]:
        records, problems = read_manifest(folder)
        self.problems += [InputError(folder, line, "correct its line of the manifest") for line in problems]
        for record in records:
            about = {key: getattr(record, key) for key in REQUIRED} | record.extra
            about = {key: value for key, value in about.items() if key not in ("id", "path", "record")}
            yield Source(record.id, str(folder / record.path), record.extra.get("record"), record_hints(record), about)


def card_of(folder: Path) -> dict[str, Any]:
    """Returns what the model card in a folder says of license, base and task, as text or lists of texts."""
    if not (folder / "README.md").is_file():
        return {}
    from wsrl.readers.model_card import read_card  # YAML, which few folders need

    try:
        card = read_card(folder / "README.md")
    except (OSError, ValueError):
        return {}
    if not isinstance(card, dict):
        return {}
    return {key: card[key] for key in CARD if key in card}


def _is_data(path: Path) -> bool:
    try:
        return holds_data(path)
    except (CheckpointError, OSError):
        return False


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
