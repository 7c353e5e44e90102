"""Vectors of children, kept beside an index so that a file is read once.

A file `INDEX.relative-KEY.npz` holds the vectors of the children of one base; KEY is a digest of the base's file and of
the version of the computation. Losing it costs time alone.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.files import write_atomically
from wsrl.relative.vector import VERSION


class Measured(NamedTuple):
    """What was found of a candidate.

    Attributes:
      state: of its file, when it was read.
      vector: of the child; None if it is none of this base.
      change: norm of what it changes over the norm of the matrices that it changes.
      reason, fix: why it is none; empty if it is one.
    """

    state: str
    vector: Float32[np.ndarray, " dim"] | None
    change: float
    reason: str
    fix: str


def kept_file(index: Path, base_state: str) -> Path:
    """Returns the file beside an index that holds vectors of a base's children."""
    key = hashlib.sha256(f"{VERSION} {base_state}".encode()).hexdigest()[:12]
    return index.parent / f"{index.name}.relative-{key}.npz"


def read_kept(file: Path, dim: int) -> dict[str, Measured]:
    """Returns what is known of candidates by their ids; nothing if the file is missing or cannot be used."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            vectors, changes = np.asarray(arrays["vectors"], np.float32), np.asarray(arrays["changes"], float)
            texts = [arrays[name].tolist() for name in ("ids", "states", "reasons", "fixes")]
            rows = np.asarray(arrays["rows"], np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    sound = vectors.ndim == 2 and vectors.shape[1] == dim and np.isfinite(vectors).all()
    if not sound or any(len(own) != len(rows) for own in (*texts, changes)) or (rows >= len(vectors)).any():
        return {}
    found = {}
    for name, state, reason, fix, row, change in zip(*texts, rows.tolist(), changes.tolist(), strict=True):
        found[name] = Measured(state, vectors[row] if row >= 0 else None, change, reason, fix)
    return found


def write_kept(file: Path, known: Mapping[str, Measured], dim: int) -> None:
    """Writes what is known of candidates.

    Raises:
      OSError: the folder cannot be written.
    """
    own = [measured.vector for measured in known.values() if measured.vector is not None]
    has = np.array([measured.vector is not None for measured in known.values()], bool)
    content = io.BytesIO()
    np.savez(
        content,
        vectors=np.array(own, np.float32).reshape(-1, dim),
        rows=np.where(has, np.cumsum(has) - 1, -1),
        changes=np.array([measured.change for measured in known.values()], np.float64),
        ids=np.array(list(known), str),
        states=np.array([measured.state for measured in known.values()], str),
        reasons=np.array([measured.reason for measured in known.values()], str),
        fixes=np.array([measured.fix for measured in known.values()], str),
    )
    write_atomically(file, content.getvalue())
