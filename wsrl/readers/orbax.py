"""Reads checkpoints of Orbax: folders of Zarr arrays, as files or gathered in an OCDBT key-value store.

The layout: https://orbax.readthedocs.io, "Checkpoint format". TensorStore reads OCDBT; JAX is not needed.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.readers.budget import Budget
from wsrl.readers.flax_names import model_names
from wsrl.readers.json_files import read_json_object
from wsrl.readers.links import is_beside
from wsrl.readers.mapped import checked_name
from wsrl.readers.zarr import METADATA, Store, open_zarr

T = TypeVar("T")

TREE, OCDBT = "_METADATA", "manifest.ocdbt"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is still written, or never was to its end
ITEMS = ("params", "state", "default", "model", "pytree", "train_state")  # preferred where a step has several
STEP = re.compile(r"(?:.*\D)?(\d{1,18})")  # how the folder of a step is called
MOST_FILES = 100_000
ARRAYS = ("jax.Array", "np.ndarray", "scalar")  # kinds of leaves, as the description of the tree calls them
SECONDS = 60  # for one read
MEND = "save or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether a folder is a checkpoint, holds one, or holds steps of a run that do."""
    return not head and path.is_dir() and _find(path) is not None


def open_file(path: Path) -> Checkpoint:
    """Opens a checkpoint; of a run with several steps, the newest.

    Tensors are called by their keys in the tree, see flax_names.model_names. The metadata has `step` and `item`, the
    folders that were chosen, where there was a choice.

    Raises:
      CheckpointError: a file is missing, damaged or a link out of the folder; an array is not as Orbax writes it or
        asks for more memory than a checkpoint of its size can need.
    """
    folder = _find(path)
    if folder is None:
        raise CheckpointError(path, "holds no Orbax checkpoint", "give the folder of one")
    size = _checked_size(folder)
    store = _store(folder)
    read = lru_cache(maxsize=1)(store)  # a shard is asked for by one of its chunks after the other
    budget = Budget(folder, size)
    tree = _Tree.of(folder, store)
    leaves: dict[tuple[str, ...], LazyTensor] = {}
    left_out = []
    for keys, is_array in budget.each(tree.leaves.items()):
        name = checked_name(".".join(keys), folder)
        values = partial(_inner, read, name)
        found = [(text, version) for key, version in METADATA.items() if (text := values(key)) is not None]
        if is_array and not found:
            raise CheckpointError(folder, f"lacks the array {name!r}", MEND)
        tensor = open_zarr(values, *found[0], tree.sparse, size, folder, name) if found else None
        if tensor is None:
            left_out.append("/".join(keys))
        else:
            leaves[keys] = tensor
    tensors, training = model_names(leaves)
    chosen = {"step" if STEP.fullmatch(part) else "item": part for part in folder.relative_to(path).parts}
    unfinished = sorted(entry.name for entry in path.iterdir() if UNFINISHED in entry.name) if path.is_dir() else []
    warnings = tuple(f"{name} is unfinished and not read" for name in unfinished)
    return Checkpoint(str(path), tensors, {**chosen, "warnings": warnings, "left_out": (*left_out, *training)})


def _inner(store: Store, name: str, key: str) -> bytes | None:
    return store(f"{name}/{key}")


def _find(path: Path, depth: int = 2) -> Path | None:
    """Returns the checkpoint's own folder: the path, the newest step in it, or an item of that."""
    if (path / TREE).is_file() or (path / OCDBT).is_file():
        return path
    folders = [entry for entry in path.iterdir() if entry.is_dir() and UNFINISHED not in entry.name]
    if any((folder / key).is_file() for folder in folders for key in METADATA):
        return path
    numbers = {entry: STEP.fullmatch(entry.name) for entry in folders}
    steps = sorted((int(match[1]), entry) for entry, match in numbers.items() if match)
    items = sorted((entry for entry, match in numbers.items() if not match), key=_by_preference)
    for folder in [entry for _, entry in reversed(steps)] + items if depth else []:
        if found := _find(folder, depth - 1):
            return found
    return None


def _by_preference(item: Path) -> tuple[int, str]:
    return ITEMS.index(item.name) if item.name in ITEMS else len(ITEMS), item.name


def _checked_size(folder: Path) -> int:
    """Returns the bytes of all files, having seen that they are files and that no link leads out."""
    size = 0
    marker = next(file for file in (folder / TREE, folder / OCDBT, folder) if file.exists())
    for number, entry in enumerate(folder.rglob("*")):
        if number >= MOST_FILES:
            raise CheckpointError(folder, f"has more than {MOST_FILES} files", "give the folder of one checkpoint")
        if entry.is_symlink() and not is_beside(entry, marker):
            reason = f"its file {entry.relative_to(folder).as_posix()!r} is a link out of it"
            raise CheckpointError(folder, reason, "get it from a source that you trust")
        if not entry.is_dir():
            if not entry.is_file():
                raise CheckpointError(folder, f"its entry {entry.name!r} is neither file nor folder", MEND)
            size += entry.stat().st_size
    return size


@dataclass(frozen=True)
class _Tree:
    """What a checkpoint says it holds.

    Attributes:
      leaves: keys of every leaf of the tree -> whether it must be an array; without a description of the tree, of
        every array that is found.
      sparse: whether chunks of zeros may be missing.
    """

    leaves: dict[tuple[str, ...], bool]
    sparse: bool

    @classmethod
    def of(cls, folder: Path, store: "_Folder | _Ocdbt") -> "_Tree":
        if not (folder / TREE).is_file():
            names = [key.rpartition("/") for key in store.names()]
            return cls({tuple(name.split(".")): True for name, _, file in names if file in METADATA}, True)
        fields = read_json_object(folder / TREE)
        described = fields.get("tree_metadata")
        leaves = {}
        for entry in described.values() if isinstance(described, dict) else [None]:
            match entry:
                case {"key_metadata": [*parts], **rest} if all(
                    isinstance(part, dict) and "key" in part for part in parts
                ):
                    told = rest.get("value_metadata")
                    kind = told.get("value_type") if isinstance(told, dict) else None
                    leaves[tuple(str(part["key"]) for part in parts)] = kind in ARRAYS
                case _:
                    raise CheckpointError(folder, f"its {TREE} is not well-formed", MEND)
        return cls(leaves, not fields.get("store_array_data_equal_to_fill_value"))


class _Folder:
    """The values of a folder: its files by their paths."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, key: str) -> bytes | None:
        parts = PurePosixPath(key).parts
        if ".." in parts or parts[:1] == ("/",) or "\0" in key:
            raise CheckpointError(self.folder, f"names the array {key!a:.80}, which is not in it", MEND)
        file = self.folder.joinpath(*parts)
        return file.read_bytes() if file.is_file() else None

    def names(self) -> Iterator[str]:
        for file in sorted(self.folder.rglob("*")):
            yield file.relative_to(self.folder).as_posix()


class _Ocdbt:
    """The values of an OCDBT store."""

    def __init__(self, folder: Path):
        import tensorstore

        self.folder = folder
        spec = {"driver": "ocdbt", "base": f"file://{quote(str(folder.resolve()))}/"}
        self._store = self._trying(lambda: tensorstore.KvStore.open(spec).result(SECONDS))

    def __call__(self, key: str) -> bytes | None:
        found = self._trying(lambda: self._store.read(key.encode()).result(SECONDS))
        return found.value if found.state == "value" else None

    def names(self) -> Iterator[str]:
        yield from (str(key, "utf-8", "replace") for key in self._trying(lambda: self._store.list().result(SECONDS)))

    def _trying(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except (ValueError, RuntimeError, TimeoutError, MemoryError, NotImplementedError) as error:
            raise CheckpointError(self.folder, f"its store cannot be read ({one_line(error)})", MEND) from error


def _store(folder: Path) -> _Folder | _Ocdbt:
    return _Ocdbt(folder) if (folder / OCDBT).is_file() else _Folder(folder)
