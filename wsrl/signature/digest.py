"""Exact digests: of the bytes of a file, of its tensors, and of weights whatever their format, names and layout."""

import hashlib
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt64

from wsrl.canonical.rows import row_chunks
from wsrl.checkpoint import CheckpointError, LazyTensor, Tensor
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


def entry_hashes(values: Float32[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Returns a hash of each number; 0.0 and -0.0 have one."""
    words = np.ascontiguousarray(values + np.float32(0)).view(np.uint32).astype(np.uint64)
    words += np.uint64(1)
    words *= GOLDEN
    words ^= words >> np.uint64(32)
    words *= MULTIPLIER
    return words


def tensor_digest(tensor: Tensor) -> TensorDigest:
    """Returns the number of a tensor's entries and two sums of hashes of its float32 values.

    Sums do not depend on the order, so neither layout nor permutations of units change them; that two unlike tensors
    agree in 128 bits by chance need not be reckoned with. It is no protection against forgery.

    Raises:
      CheckpointError: the tensor holds NaN or Inf, or cannot be read.
    """
    entries = first = second = 0
    for _, _, rows in row_chunks(tensor, entries=PIECE):
        words = entry_hashes(rows).ravel()
        entries += words.size
        first = (first + int(words.sum(dtype=np.uint64))) % 2**64
        words ^= words >> np.uint64(29)
        words *= words
        second = (second + int(words.sum(dtype=np.uint64))) % 2**64
    return entries, first, second


def weights_digest(tensors: Iterable[TensorDigest]) -> str:
    """Returns the SHA-256 of the digests of a network's tensors, each counted once, in any order."""
    lines = sorted({f"{entries} {first:016x} {second:016x}\n" for entries, first, second in tensors})
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def exact_digest(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of the names, types, shapes and numbers of all tensors, whatever file they lie in.

    Neither the order of the tensors nor shards, containers or other content of the files change it. It is taken over a
    line `name, dtype, shape, SHA-256 of the entries` for each tensor, by name; entries are little-endian numbers of 32
    bits, or of 64 bits where the file holds such, so those of narrower types are the same in all readers. NaN and Inf
    are numbers as others.

    Raises:
      CheckpointError: a tensor cannot be read.
    """
    lines = [f"{name}\0{tensor.dtype}\0{tensor.shape}\0{_entries_digest(tensor)}\n" for name, tensor in tensors.items()]
    return hashlib.sha256("".join(sorted(lines)).encode(errors="surrogatepass")).hexdigest()


def _entries_digest(tensor: Tensor) -> str:
    lazy = tensor if isinstance(tensor, LazyTensor) else LazyTensor.of(tensor, "", "")
    wide = np.dtype("<f8" if lazy.dtype == "float64" else "<f4")
    step = max(PIECE // max(prod(lazy.shape[1:]), 1), 1)
    digest = hashlib.sha256()
    for start in range(0, lazy.num_rows, step):
        rows = np.asarray(lazy.read_rows(start, min(start + step, lazy.num_rows)))
        digest.update(np.ascontiguousarray(rows.astype(wide, copy=False)).data)
    return digest.hexdigest()
