"""Exact digests: of the bytes of a file, and of weights whatever their format, names, layout and order of units."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wsrl.canonical.rows import row_chunks
from wsrl.checkpoint import CheckpointError, Tensor
from wsrl.signature.binormalization import PIECE
from wsrl.signature.hashing import GOLDEN

MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)  # of splitmix64 (Steele, Lea and Flood 2014)

TensorDigest = tuple[int, int, int]


def content_digest(path: str | Path) -> str:
    """Returns the SHA-256 of a file; of a folder, that of the names and digests of the files below it.

    Raises:
      CheckpointError: something cannot be read.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        below = sorted(p for p in path.rglob("*") if p.is_file())
        lines = [f"{p.relative_to(path).as_posix()}\0{content_digest(p)}\n" for p in below]
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})", "check the file") from error


def tensor_digest(tensor: Tensor) -> TensorDigest:
    """Returns the number of a tensor's entries and two sums of hashes of its float32 values.

    Sums do not depend on the order, so neither layout nor permutations of units change them; that two unlike tensors
    agree in 128 bits by chance need not be reckoned with. It is no protection against forgery.

    Raises:
      CheckpointError: the tensor holds NaN or Inf, or cannot be read.
    """
    entries = first = second = 0
    for _, _, rows in row_chunks(tensor, entries=PIECE):
        values = np.ascontiguousarray(rows + np.float32(0))  # -0.0 becomes 0.0
        words = values.ravel().view(np.uint32).astype(np.uint64)
        words += np.uint64(1)
        words *= GOLDEN
        words ^= words >> np.uint64(32)
        words *= MULTIPLIER
        entries += values.size
        first = (first + int(words.sum(dtype=np.uint64))) % 2**64
        words ^= words >> np.uint64(29)
        words *= words
        second = (second + int(words.sum(dtype=np.uint64))) % 2**64
    return entries, first, second


def weights_digest(tensors: Iterable[TensorDigest]) -> str:
    """Returns the SHA-256 of the digests of a network's tensors, each counted once, in any order."""
    lines = sorted({f"{entries} {first:016x} {second:016x}\n" for entries, first, second in tensors})
    return hashlib.sha256("".join(lines).encode()).hexdigest()
