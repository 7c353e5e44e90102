"""Embeddings of checkpoints in a file: `wsrl embed` writes it, `wsrl search` reads it."""

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.search.nearest import NearestNeighbors

if TYPE_CHECKING:
    from wsrl.embedding import Embeddings


class StoredEmbeddings(NamedTuple):
    """What a file holds.

    Attributes:
      ids, vectors, kinds, accuracy: see `wsrl.embedding.Embeddings`.
      encoder: hash of the one that made them.
    """

    ids: list[str]
    vectors: Float32[np.ndarray, "n dim"]
    encoder: str
    kinds: list[str] | None
    accuracy: Float32[np.ndarray, " n"] | None


def write_embeddings(path: Path, found: "Embeddings", encoder: str) -> None:
    """Writes `ids`, `embeddings` [n, dim], the hash of their `encoder`, with `kinds` and `accuracy` if known."""
    arrays: dict[str, Any] = {"ids": np.array(found.ids), "embeddings": found.vectors, "encoder": np.array(encoder)}
    if found.kinds is not None and found.accuracy is not None:
        arrays |= {"kinds": np.array(found.kinds, str), "accuracy": found.accuracy}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(path, content.getvalue())


def read_embeddings(path: Path) -> StoredEmbeddings:
    """Reads what `write_embeddings` wrote; vectors are of length 1.

    Raises:
      InputError: the file is missing, damaged or holds something else.
    """
    mend = "write it with `wsrl embed`"
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            ids, vectors, encoder = (file[name] for name in ("ids", "embeddings", "encoder"))
            more = [file[name] for name in ("kinds", "accuracy") if name in file]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(path, f"holds no embeddings ({error})", mend) from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or ids.shape != vectors.shape[:1] or ids.dtype.kind != "U":
        raise InputError(path, f"holds `embeddings` {vectors.shape} for `ids` {ids.shape}", mend)
    if [(array.shape, array.dtype.kind) for array in more] not in ([], [(ids.shape, "U"), (ids.shape, "f")]):
        raise InputError(path, "holds `kinds` and `accuracy` that do not belong to its `ids`", mend)
    kinds, accuracy = (more[0].tolist(), more[1].astype(np.float32)) if more else (None, None)
    if accuracy is not None and not ((accuracy >= 0) & (accuracy <= 1)).all():
        raise InputError(path, "holds an `accuracy` that is not from 0 to 1", mend)
    try:
        unit = NearestNeighbors.build(vectors, ids.tolist()).vectors
    except InputError as error:
        raise InputError(path, f"damaged ({error})", mend) from error
    return StoredEmbeddings(ids.tolist(), unit, str(encoder), kinds, accuracy)
