"""Reads what `torch.export.save` writes (`.pt2`): an archive of the bytes of each weight, and JSON that describes them.

The layout: torch/export/pt2_archive in https://github.com/pytorch/pytorch. The program in the archive is not read.
"""

from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers.allowlist import Storage, StoredTensor
from wsrl.readers.archives import Archive, member_names, open_archive
from wsrl.readers.json_files import LIMIT, parse_json_object
from wsrl.readers.mapped import checked_name
from wsrl.readers.torch_tensors import Storages, lazy_tensors

CONFIG = "data/weights/model_weights_config.json"
MEND = "export it again"
# By the numbers of torch/_export/serde/schema.py, ScalarType.
DTYPES = {
    **{1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float16, 7: np.float32, 8: np.float64},
    **{10: np.complex64, 11: np.complex128, 12: np.bool_, 13: ml_dtypes.bfloat16, 28: np.uint16},
    **{29: ml_dtypes.float8_e4m3fn, 30: ml_dtypes.float8_e5m2},
    **{31: ml_dtypes.float8_e4m3fnuz, 32: ml_dtypes.float8_e5m2fnuz},
}


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is a zip archive with a description of weights."""
    return any(name.endswith(CONFIG) for name in member_names(head, path))


def open_file(path: Path) -> Checkpoint:
    """Opens an exported program; weights that were pickled, or are of a type that is not known, are left out.

    Raises:
      CheckpointError: the archive or the description is broken, or a weight reaches beyond its bytes.
    """
    archive = open_archive(path)
    found = next(name for name in archive.members if name.endswith(CONFIG))
    folder = found.removesuffix("model_weights_config.json")
    described = parse_json_object(archive.read(found, LIMIT + 1).tobytes(), path, f"its {CONFIG}").get("config")
    if not isinstance(described, dict):
        raise CheckpointError(path, f"its {CONFIG} does not describe weights", MEND)
    leaves, left_out = {}, []
    for name, entry in described.items():
        leaf = _leaf(entry)
        if leaf is None:
            left_out.append(checked_name(name, path))
        else:
            leaves[checked_name(name, path)] = leaf
    tensors, tied = lazy_tensors(leaves, _Members(archive, folder))
    metadata = {"framework": "pytorch", "tied": tied, "left_out": tuple(left_out)}
    if left_out:
        metadata["warnings"] = tuple(
            f"tensor {name!r} is not read: it is pickled or of a rare type" for name in left_out
        )
    return Checkpoint(str(path), tensors, metadata)


def _leaf(entry: object) -> StoredTensor | None:
    match entry:
        case {"path_name": str(key), "use_pickle": False, "tensor_meta": {"dtype": int(number), **meta}}:
            lengths = [_integers(meta.get(part)) for part in ("sizes", "strides")]
            offset = _integers([meta.get("storage_offset")])
        case _:
            return None
    shape, strides = lengths
    if number not in DTYPES or shape is None or strides is None or not offset:
        return None
    dtype = np.dtype(DTYPES[number])
    return StoredTensor(Storage(key, dtype, prod(shape)), dtype, offset[0], shape, strides)


def _integers(values: object) -> tuple[int, ...] | None:
    if not isinstance(values, list):
        return None
    whole = [n for value in values if isinstance(value, dict) and type(n := value.get("as_int")) is int and n >= 0]
    return tuple(whole) if len(whole) == len(values) else None


class _Members(Storages):
    """Storages that are members of an archive."""

    def __init__(self, archive: Archive, folder: str):
        super().__init__(archive.path, archive.size, False)
        self._archive, self._folder = archive, folder

    def locate(self, storage: Storage):
        name = f"{self._folder}{storage.key}"
        if name not in self._archive.members:
            raise CheckpointError(self.path, f"lacks the member {name!r}", MEND)
        return self._archive.members[name], lambda: self._archive.read(name)
