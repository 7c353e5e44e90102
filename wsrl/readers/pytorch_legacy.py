"""Reads what `torch.save` wrote before PyTorch 1.6, and plain pickles of arrays.

The layout (torch/serialization.py, `_legacy_save`): pickles of a magic number, a version, facts of the machine, the
object and the list of storage keys; then for each key the number of entries (8 bytes) and the entries.
"""

import io
import mmap
from functools import partial
from pathlib import Path

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers.allowlist import ALLOWED, Storage, typed_storage
from wsrl.readers.mapped import SMALL, Bytes, map_file
from wsrl.readers.pickles import Global, Stream, read_pickle
from wsrl.readers.state_dict import find_state_dict
from wsrl.readers.torch_tensors import Storages, lazy_tensors

MAGIC = 0x1950A86A20F9469CFC6C
MEND = "write or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether the file begins as a pickle of protocol 2 or later does."""
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")


def open_file(path: Path) -> Checkpoint:
    """Opens a file of `torch.save` in its legacy format, or a pickle of NumPy arrays.

    Raises:
      CheckpointError: a pickle is broken or holds more than tensors and containers; storages do not fill the file.
    """
    data = map_file(path)
    size = len(data)
    stream = _stream(path, data)
    value = read_pickle(stream, ALLOWED, path, size)
    if value != MAGIC:
        tensors, left_out = find_state_dict(value, path)
        nothing = _FollowingStorages({}, np.empty(0, np.uint8), path, size, False)
        return Checkpoint(str(path), lazy_tensors(tensors, nothing)[0], {"framework": "numpy", "left_out": left_out})
    storages: dict[str, Storage] = {}
    read_pickle(stream, {}, path, size)  # the version, which has always been 1001
    machine = read_pickle(stream, {}, path, size)
    big_endian = isinstance(machine, dict) and machine.get("little_endian") is False
    value = read_pickle(stream, ALLOWED, path, size, partial(_storage, storages, path))
    keys = read_pickle(stream, {}, path, size)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise CheckpointError(path, "its list of storages is broken", MEND)
    tensors, left_out = find_state_dict(value, path)
    following = _FollowingStorages({key: storages[key] for key in keys}, data[stream.tell() :], path, size, big_endian)
    lazy, tied = lazy_tensors(tensors, following)
    return Checkpoint(str(path), lazy, {"framework": "pytorch", "tied": tied, "left_out": left_out})


def _stream(path: Path, data: Bytes) -> Stream:
    if len(data) <= SMALL:
        return io.BytesIO(data.tobytes())
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _FollowingStorages(Storages):
    """Storages that follow one another, each behind its number of entries."""

    def __init__(self, storages: dict[str, Storage], data: Bytes, path: Path, size: int, big_endian: bool):
        super().__init__(path, size, big_endian)
        self._bytes: dict[str, Bytes] = {}
        at = 0
        for key, storage in storages.items():
            count = int.from_bytes(data[at : at + 8].tobytes(), "big" if big_endian else "little")
            start, at = at + 8, at + 8 + count * storage.dtype.itemsize
            if at > len(data):
                raise CheckpointError(path, f"storage {key!r} ends beyond the file", MEND)
            self._bytes[key] = data[start:at]

    def locate(self, storage: Storage):
        if storage.key not in self._bytes:
            raise CheckpointError(self.path, f"lacks the storage {storage.key!r}", MEND)
        found = self._bytes[storage.key]
        return len(found), lambda: found


def _storage(storages: dict[str, Storage], path: Path, identity: object) -> Storage | Global:
    match identity:
        case ("storage", kind, key, _, entries, None):
            storage = typed_storage(kind, key, entries)
            if storages.setdefault(storage.key, storage) != storage:
                raise ValueError("a storage of two types")
            return storage
        case ("storage", _, _, _, _, _):
            reason = "holds views of storages, as PyTorch before 0.4 wrote them"
            raise CheckpointError(path, reason, "load it with PyTorch and save its state_dict() again")
        case ("module", Global() as kind, *_):  # beside the text of its code, which is of no use here
            return kind
    raise ValueError("a persistent id that is no storage")
