"""Reads what `torch.save` and `torch.jit.save` write: a zip archive of a pickle and the storages that it speaks of.

The layout (torch/csrc/jit/serialization, "inline_container"): `<root>/data.pkl`, `<root>/data/<key>` for each storage,
`<root>/byteorder`, and in TorchScript `<root>/code/`, `<root>/constants.pkl` and `<root>/constants/<key>`.
"""

import io
from functools import partial
from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers.allowlist import ALLOWED, Storage, typed_storage
from wsrl.readers.archives import Archive, member_names, open_archive
from wsrl.readers.pickles import read_pickle
from wsrl.readers.state_dict import Leaf, find_state_dict, flatten
from wsrl.readers.torch_tensors import Storages, lazy_tensors

PICKLE = "data.pkl"
MEND = "write or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is a zip archive with one `data.pkl`."""
    return any(name.rpartition("/")[2] == PICKLE for name in member_names(head, path))


def open_file(path: Path) -> Checkpoint:
    """Opens a file of `torch.save` or `torch.jit.save`; tensors in the order of the model.

    Raises:
      CheckpointError: the archive or its pickle is broken, or the pickle holds more than tensors and containers.
    """
    return open_torch_archive(open_archive(path))


def open_torch_archive(archive: Archive) -> Checkpoint:
    """Opens such an archive, which may itself lie in another; raises CheckpointError as open_file does."""
    roots = [name.removesuffix(PICKLE) for name in archive.members if name.rpartition("/")[2] == PICKLE]
    if len(roots) != 1:
        raise CheckpointError(archive.path, f"has {len(roots)} members called {PICKLE}", MEND)
    root = roots[0]
    script = f"{root}constants.pkl" in archive.members
    value = _unpickled(archive, f"{root}{PICKLE}")
    tensors: dict[str, Leaf]
    if script:
        tensors, left_out, folder = flatten(value, archive.path), (), "data"
        if not tensors:  # torch.jit.freeze makes constants of all weights
            constants = flatten(_unpickled(archive, f"{root}constants.pkl"), archive.path)
            tensors, folder = {f"constants.{name}": leaf for name, leaf in constants.items()}, "constants"
    else:
        (tensors, left_out), folder = find_state_dict(value, archive.path), "data"
    storages = _MemberStorages(archive, f"{root}{folder}/", _big_endian(archive, root))
    lazy, tied = lazy_tensors(tensors, storages)
    metadata = {"framework": "torchscript" if script else "pytorch", "tied": tied, "left_out": left_out}
    return Checkpoint(str(archive.path), lazy, metadata)


class _MemberStorages(Storages):
    """Storages that are members of an archive."""

    def __init__(self, archive: Archive, folder: str, big_endian: bool):
        super().__init__(archive.path, archive.size, big_endian)
        self._archive = archive
        self._folder = folder

    def locate(self, storage: Storage):
        name = f"{self._folder}{storage.key}"
        if name not in self._archive.members:
            raise CheckpointError(self.path, f"lacks the member {name!r}", MEND)
        return self._archive.members[name], partial(self._archive.read, name)


def _unpickled(archive: Archive, name: str) -> object:
    data = archive.read(name)
    return read_pickle(io.BytesIO(data.tobytes()), ALLOWED, archive.path, archive.size, _storage)


def _storage(identity: object) -> Storage:
    match identity:
        case ("storage", kind, key, _, entries):
            return typed_storage(kind, key, entries)
    raise ValueError("a persistent id that is no storage")


def _big_endian(archive: Archive, root: str) -> bool:
    name = f"{root}byteorder"
    if name not in archive.members:
        return False
    order = archive.read(name)[:8].tobytes()
    if order not in (b"little", b"big"):
        raise CheckpointError(archive.path, f"has the unknown byte order {order!r}", MEND)
    return order == b"big"
