"""What tells files apart and when they change: names, places, sizes and times, digests."""

import os
from fnmatch import fnmatch
from glob import escape
from pathlib import Path

from wsrl.errors import InputError
from wsrl.readers.declared import CARD
from wsrl.search.address import is_address
from wsrl.search.catalog import Stat
from wsrl.signature.digest import content_digest

HUB = "hf://"
TOGETHER = ("*.json", "*.mlmodel", "saved_model.pb")  # files that may name any others beside and below them
BESIDE = {".xml": ".bin", ".index": ".data-?????-of-?????"}  # ends of files whose data lie beside them -> of the data
CONFIGURATIONS = ("config.json", "adapter_config.json")  # that tell of the weights beside them
LARGEST = 2**63  # SQLite's integers end there; some file systems number their files beyond


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
    stats = [os.stat(below) for below in belonging(Path(path))]
    size, mtime = sum(each.st_size for each in stats), sum(each.st_mtime_ns for each in stats)
    return Stat(own.st_dev % LARGEST, own.st_ino % LARGEST, size, mtime % LARGEST, record)


def whole_digest(path: str) -> str | None:
    """Returns the digest of a checkpoint's content, or None if more files belong to it than the digest covers.

    Raises:
      CheckpointError: it cannot be read.
    """
    own = Path(path)
    return content_digest(own) if own.is_dir() or belonging(own) == [own] else None


def belonging(path: Path) -> list[Path]:
    """Returns the files of a checkpoint: also configurations and card beside it, data of ONNX, what an index names."""
    if path.is_dir():
        return [below for below in path.rglob("*") if below.is_file()]
    if any(fnmatch(path.name, pattern) for pattern in TOGETHER):
        return [below for below in path.parent.rglob("*") if below.is_file()]
    if path.suffix in BESIDE:
        return [path, *sorted(path.parent.glob(escape(path.stem) + BESIDE[path.suffix]))]
    data = (f"{path.name}.data", f"{path.name}_data")
    told, data = ([own for own in map(path.with_name, names) if own.is_file()] for names in (CONFIGURATIONS, data))
    card = [own for own in (path.with_name(CARD),) if told and own.is_file()]  # which is that of this model alone then
    return [path, *told, *card, *data]


def relative(directory: Path, path: str) -> str:
    """Returns the path as an index in `directory` stores it: relative to that folder, so that both can move."""
    return path if path.startswith(HUB) else Path(os.path.relpath(path, directory)).as_posix()


def located(directory: Path, stored: str) -> str:
    """Returns the path that `relative` made what is stored of."""
    return stored if stored.startswith(HUB) else os.path.normpath(directory / stored)


def local_folder(name: str | Path, what: str) -> Path:
    """Returns a folder of this machine as a path.

    Args:
      name: of it.
      what: needs the folder, for the error.

    Raises:
      InputError: it is the address of a vector store, or there is no such folder.
    """
    if is_address(name):
        raise InputError(name, f"is a vector store, and {what} needs a folder", "name an index or other folder on disk")
    if not Path(name).is_dir():
        raise InputError(name, "no such folder", "check the path")
    return Path(name)
