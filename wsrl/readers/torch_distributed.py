"""Reads folders of `torch.distributed.checkpoint`: a pickle of what lies where, and files of pieces of tensors.

The layout: torch/distributed/checkpoint/metadata.py and filesystem.py in https://github.com/pytorch/pytorch. A piece is
a file of `torch.save` within a file; the pickle is read without running it.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.readers.allowlist import ALLOWED
from wsrl.readers.archives import Archive
from wsrl.readers.links import is_beside
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, map_file
from wsrl.readers.pickles import Stub, read_pickle
from wsrl.readers.pytorch import open_torch_archive
from wsrl.readers.state_dict import MODEL, TRAINING

DESCRIPTION = ".metadata"
SUFFIX = ".distcp"
MEND = "save or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether a folder holds `.metadata`, or a file is named as one of the parts beside it."""
    return (not head and (path / DESCRIPTION).is_file()) or _is_part(path)


def _is_part(path: Path) -> bool:
    return path.suffix == SUFFIX and (path.parent / DESCRIPTION).is_file()


@dataclass(frozen=True)
class _Piece:
    """A part of a tensor: where it begins, and the bytes that hold it."""

    offsets: tuple[int, ...]
    file: str
    start: int
    length: int


def open_file(path: Path) -> Checkpoint:
    """Opens a folder; state of the optimizer is left out.

    Raises:
      CheckpointError: the path is a single part; the description is broken or names a file outside the folder; pieces
        do not make up a tensor.
    """
    if not path.is_dir():
        raise CheckpointError(path, "is a part of a distributed checkpoint", f"give its folder {path.parent.name!r}")
    data = map_file(path / DESCRIPTION)
    described = read_pickle(io.BytesIO(data.tobytes()), ALLOWED, path / DESCRIPTION, len(data))
    tensors, stored = (_attribute(described, key, path) for key in ("state_dict_metadata", "storage_data"))
    pieces = _pieces(stored, path)
    files = _Files(path)
    result: dict[str, LazyTensor] = {}
    left_out = []
    for name, entry in tensors.items():
        name = checked_name(name, path)
        size = entry.attributes().get("size") if isinstance(entry, Stub) else None
        if not isinstance(size, tuple) or TRAINING.match(name):
            left_out.append(name)
            continue
        parts = pieces.get(name, [])
        result[name] = _tensor(name, checked_shape(list(size), path, name), parts, files)
    tops = {name.partition(".")[0] for name in result}
    prefix = f"{next(iter(tops))}." if len(tops) == 1 and tops <= set(MODEL) else ""
    result = {name.removeprefix(prefix): tensor for name, tensor in result.items()}
    return Checkpoint(str(path), result, {"framework": "pytorch", "left_out": tuple(left_out)})


def _attribute(described: object, key: str, path: Path) -> Mapping:
    value = described.attributes().get(key) if isinstance(described, Stub) else None
    if not isinstance(value, dict):
        raise CheckpointError(path, f"its {DESCRIPTION} has no {key}", MEND)
    return value


def _pieces(stored: Mapping, path: Path) -> dict[str, list[_Piece]]:
    """The pieces of each tensor by its name."""
    result: dict[str, list[_Piece]] = {}
    for index, place in stored.items():
        match index, place:
            case Stub() as index, Stub() as place:
                key, at = index.attributes(), place.attributes()
            case _:
                raise CheckpointError(path, f"its {DESCRIPTION} is not well-formed", MEND)
        match key.get("fqn"), key.get("offset"), at:
            case str(name), tuple(offsets), {"relative_path": str(file), "offset": int(start), "length": int(length)}:
                if not all(type(n) is int and n >= 0 for n in (*offsets, start, length)):
                    raise CheckpointError(path, f"a piece of {name!a:.80} lies nowhere", MEND)
                result.setdefault(name, []).append(_Piece(offsets, file, start, length))
            case str(name), None, _:  # an object that is no tensor
                result.setdefault(name, [])
            case _:
                raise CheckpointError(path, f"its {DESCRIPTION} is not well-formed", MEND)
    return result


class _Files:
    """The files of a folder; each is mapped once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._mapped: dict[str, Bytes] = {}
        self.tensor = lru_cache(maxsize=4)(self._tensor)

    def _tensor(self, piece: _Piece) -> LazyTensor:
        name = piece.file
        if not name.isprintable() or name in (".", "..", "") or set(name) & set("/\\"):
            reason = f"names the file {name!a:.80}, which is not in its folder"
            raise CheckpointError(self.folder, reason, "get it from a source that you trust")
        if name not in self._mapped:
            try:
                if not is_beside(self.folder / name, self.folder / DESCRIPTION):
                    reason = f"its file {name!r} is a link out of it"
                    raise CheckpointError(self.folder, reason, "get it from a source that you trust")
                self._mapped[name] = map_file(self.folder / name)
            except OSError as error:
                reason = f"its file {name!r} cannot be read ({error.strerror})"
                raise CheckpointError(self.folder, reason, "download all of its files") from error
        data = self._mapped[name][piece.start : piece.start + piece.length]
        tensors = dict(open_torch_archive(Archive(data, self.folder / name)).tensors)
        if len(data) != piece.length or len(tensors) != 1:
            raise CheckpointError(self.folder, f"a piece in {name!r} is damaged", MEND)
        tensor = next(iter(tensors.values()))
        return tensor if isinstance(tensor, LazyTensor) else LazyTensor.of(tensor, self.folder, name)


def _tensor(name: str, shape: tuple[int, ...], pieces: list[_Piece], files: _Files) -> LazyTensor:
    """A tensor of pieces, which must fill it."""
    path = files.folder
    if not pieces or any(len(piece.offsets) != len(shape) for piece in pieces):
        raise CheckpointError(path, f"tensor {name!r} lies nowhere", MEND)
    kinds = [(piece, files.tensor(piece)) for piece in pieces]
    inside = all(
        at + n <= size for piece, t in kinds for at, n, size in zip(piece.offsets, t.shape, shape, strict=False)
    )
    fill = sum(t.size for _, t in kinds) == prod(shape) and len({piece.offsets for piece in pieces}) == len(pieces)
    if any(t.ndim != len(shape) for _, t in kinds) or not inside or not fill:
        raise CheckpointError(path, f"the pieces of tensor {name!r} do not make it up", MEND)
    first = kinds[0][1]
    stored = first.read_rows(0, 0).dtype
    spans = [(piece, tensor.shape) for piece, tensor in kinds]

    def rows(start: int, stop: int) -> np.ndarray:
        if not shape:
            return files.tensor(pieces[0]).read_rows(start, stop)
        start, stop, _ = slice(start, stop).indices(shape[0])
        result = np.zeros((max(stop - start, 0), *shape[1:]), stored)
        for piece, extent in spans:
            low, high = max(start, piece.offsets[0]), min(stop, piece.offsets[0] + extent[0])
            if low < high:
                inner = (slice(at, at + n) for at, n in zip(piece.offsets[1:], extent[1:], strict=True))
                part = files.tensor(piece).read_rows(low - piece.offsets[0], high - piece.offsets[0])
                result[(slice(low - start, high - start), *inner)] = part
        return result

    return LazyTensor(shape, first.dtype, rows, str(path), name)
