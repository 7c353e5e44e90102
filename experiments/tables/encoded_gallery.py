"""A gallery of models as the encoders of a run see it, and the two ways to ask it with labeled examples."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wsrl.data import ImageSet
from wsrl.encoder.dense_network import dense_network
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import encoder_hash, load_encoder
from wsrl.encoder.kind import network_kind
from wsrl.graph.collection import make_buckets
from wsrl.graph.tiles import TileGraph
from wsrl.recommendation.data_query import data_query
from wsrl.recommendation.probes import Query, probe_query, train_probes
from wsrl.search.query_expansion import QueryExpansion


@dataclass(frozen=True)
class Encoded:
    """One encoder, and what it makes of the gallery.

    Attributes:
      directory: of the encoder and its data-set encoder.
      kinds: see `wsrl.encoder.kind.network_kind`.
      seconds: that embedding the gallery took, compilation included.
    """

    directory: Path
    embedder: Embedder
    params: Any
    vectors: Float[np.ndarray, "models dim"]
    kinds: list[str]
    seconds: float

    @property
    def hash(self) -> str:
        """Of the encoder."""
        return encoder_hash(self.embedder.encoder, self.params)


class Asked(NamedTuple):
    """What the encoders answer, one each.

    Attributes:
      queries: of the data.
      similarities: of the candidates.
      orders: places of the candidates, the nearest first.
      seconds: of one query and its search, mean over encoders.
    """

    queries: list[Query]
    similarities: list[Float[np.ndarray, "candidates"]]
    orders: list[Int[np.ndarray, "candidates"]]
    seconds: float


def encode_gallery(directories: Sequence[Path], graphs: Sequence[TileGraph]) -> list[Encoded]:
    """Embeds networks by the encoders, all of one shape, of some folders.

    Raises:
      InputError: an encoder cannot be read.
    """
    encoded, buckets, kinds = [], make_buckets(graphs), [network_kind(dense_network(graph)) for graph in graphs]
    for number, directory in enumerate(directories):
        encoder, params = load_encoder(directory)
        embedder = encoded[0].embedder if encoded else Embedder(encoder)
        started = time.perf_counter()
        vectors = embedder(params, buckets, f"encoder {number}").embedding
        encoded.append(Encoded(directory, embedder, params, vectors, kinds, time.perf_counter() - started))
    return encoded


def ask_by_examples(encoded: Sequence[Encoded], candidates: Int[np.ndarray, "candidates"], images: ImageSet) -> Asked:
    """Asks with the vector that the data-set encoder gives the examples."""
    for own in encoded:
        data_query(images, own.directory, own.embedder.encoder, own.params)  # compiles what is timed next
    around = [_neighborhoods(own, candidates) for own in encoded]
    started = time.perf_counter()
    queries = [data_query(images, own.directory, own.embedder.encoder, own.params) for own in encoded]
    similarities, orders = _search(around, queries, candidates)
    return Asked(queries, similarities, orders, (time.perf_counter() - started) / len(encoded))


def ask_by_probes(
    encoded: Sequence[Encoded], candidates: Int[np.ndarray, "candidates"], images: ImageSet, seed: int
) -> Asked:
    """Asks with the embeddings of probe models that are trained on the examples; a first call compiles."""
    around = [_neighborhoods(own, candidates) for own in encoded]
    started = time.perf_counter()
    probes = train_probes(images, seed)
    training = time.perf_counter() - started
    started = time.perf_counter()
    queries = [probe_query(probes, own.embedder, own.params) for own in encoded]
    similarities, orders = _search(around, queries, candidates)
    return Asked(queries, similarities, orders, training + (time.perf_counter() - started) / len(encoded))


def _neighborhoods(own: Encoded, candidates: np.ndarray) -> QueryExpansion:
    """Of the candidates alone; made once a gallery, so no part of a query's seconds."""
    return QueryExpansion.build(own.vectors[candidates], [own.kinds[place] for place in candidates])


def _search(
    around: Sequence[QueryExpansion], queries: Sequence[Query], candidates: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    similarities = [
        own.similarities(query.vectors, query.kinds).mean(0) for own, query in zip(around, queries, strict=True)
    ]
    return similarities, [candidates[np.argsort(-similarity, kind="stable")] for similarity in similarities]
