"""The models of a zoo with their embeddings, which are made once and kept beside the zoo."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import encoder_hash
from wsrl.files import write_atomically
from wsrl.graph.collection import make_buckets
from wsrl.graph.kind import network_kind
from wsrl.graph.size import SIZES, network_size
from wsrl.search.query_expansion import QueryExpansion
from wsrl.zoo.load import stream_networks
from wsrl.zoo.manifest import MANIFEST, Record, read_manifest

TILE = 16  # neurons; embeddings do not depend on it
WINDOW = 4096  # networks in memory at a time


class Gallery(NamedTuple):
    """Usable models of a zoo.

    Attributes:
      records: of the manifest.
      vectors: of length 1.
      sizes: see `network_size`.
      kinds: see `network_kind`.
      problems: one line for each model that was left out.
    """

    records: list[Record]
    vectors: Float32[np.ndarray, "n dim"]
    sizes: Float32[np.ndarray, "n 3"]
    kinds: list[str]
    problems: list[str]

    def neighbourhoods(self) -> QueryExpansion:
        """The models as they are searched."""
        return QueryExpansion.build(self.vectors, self.kinds)


def open_gallery(zoo: Path, embedder: Embedder, params: Any, progress: bool = False) -> Gallery:
    """Embeds the models of a zoo, or reads the embeddings that an earlier call left there.

    They are kept in `embeddings-HASH.npz`, HASH being the beginning of the encoder's hash, and made anew when the
    manifest has changed. Where the folder cannot be written, that is one of the problems.

    Raises:
      InputError: the zoo has no usable manifest.
    """
    records, problems = read_manifest(zoo)
    told = {"encoder": encoder_hash(embedder.encoder, params), "manifest": _digest(zoo / MANIFEST)}
    path = zoo / f"embeddings-{told['encoder'][:16]}.npz"
    kept = _read(path, told)
    if kept is None:
        kept = _embed(zoo, records, embedder, params, progress)
        content = io.BytesIO()
        arrays: dict[str, Any] = kept | {key: np.array(value) for key, value in told.items()}
        np.savez(content, **arrays)
        try:
            write_atomically(path, content.getvalue())
        except OSError as error:
            problems = [*problems, f"{path}: embeddings are not kept ({error.strerror})"]
    by_id = {record.id: record for record in records}
    left_out = [str(line) for line in kept["problems"]]
    found = [by_id[str(name)] for name in kept["ids"]]
    kinds = [str(kind) for kind in kept["kinds"]]
    return Gallery(found, kept["embeddings"], kept["sizes"], kinds, [*problems, *left_out])


def _embed(zoo: Path, records: Sequence[Record], embedder: Embedder, params: Any, progress: bool) -> dict:
    ids, vectors, problems = [], [np.zeros((0, embedder.encoder.dim), np.float32)], []
    sizes, kinds = [np.zeros((0, SIZES), np.float32)], []
    for networks in stream_networks(zoo, records, TILE, WINDOW):
        problems += networks.problems
        if networks.graphs:
            ids += [record.id for record in networks.records]
            label = "embedding" if progress else None
            vectors.append(embedder(params, make_buckets(networks.graphs), label).embedding)
            sizes.append(np.stack([network_size(graph) for graph in networks.graphs]))
            kinds += [network_kind(graph) for graph in networks.graphs]
    texts = {"ids": np.array(ids, str), "kinds": np.array(kinds, str), "problems": np.array(problems, str)}
    return texts | {"embeddings": np.concatenate(vectors), "sizes": np.concatenate(sizes)}


def _read(path: Path, told: dict[str, str]) -> dict[str, np.ndarray] | None:
    """What the file keeps, or None where it is missing, damaged or not of this encoder and manifest."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
            if any(str(held[key]) != value for key, value in told.items()):
                return None
            found = {key: held[key] for key in ("ids", "embeddings", "sizes", "kinds", "problems")}
            return found if found["sizes"].shape[1:] == (SIZES,) else None  # another version of wsrl knew others
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
