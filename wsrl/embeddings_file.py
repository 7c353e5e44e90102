"""Embeddings of checkpoints in a file: `wsrl embed` writes it, `wsrl search` reads it."""

import io
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.index import Index


def write_embeddings(path: Path, ids: list[str], vectors: Float[np.ndarray, "n dim"], encoder: str) -> None:
    """Writes names, vectors [n, dim] and the hash of their encoder as `.npz`, atomically."""
    content = io.BytesIO()
    np.savez(content, ids=np.array(ids), embeddings=vectors, encoder=np.array(encoder))
    write_atomically(path, content.getvalue())


def read_embeddings(path: Path) -> tuple[list[str], Float32[np.ndarray, "n dim"], str]:
    """Names, vectors of length 1 and the hash of their encoder, as `write_embeddings` wrote them.

    Raises:
      InputError: the file is missing, damaged or holds something else.
    """
    mend = "write it with `wsrl embed`"
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            ids, vectors, encoder = (file[name] for name in ("ids", "embeddings", "encoder"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(path, f"holds no embeddings ({error})", mend) from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or ids.shape != vectors.shape[:1] or ids.dtype.kind != "U":
        raise InputError(path, f"holds `embeddings` {vectors.shape} for `ids` {ids.shape}", mend)
    try:
        return ids.tolist(), Index.build(vectors, ids.tolist()).vectors, str(encoder)
    except InputError as error:
        raise InputError(path, f"damaged ({error})", mend) from error
