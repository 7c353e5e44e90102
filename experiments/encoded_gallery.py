"""A gallery of models as the encoders of a run see it, and the two ways to ask it with labelled examples."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wsrl.annotations import Graph
from wsrl.data import ImageSet
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import encoder_hash, load_encoder
from wsrl.graph.collection import make_buckets
from wsrl.recommend.data_query import data_query
from wsrl.recommend.probes import Query, probe_query, train_probes


@dataclass(frozen=True)
class Encoded:
    """One encoder, and what it makes of the gallery.

    Attributes:
      directory: of the encoder and its data-set encoder.
      seconds: that embedding the gallery took, compilation included.
    """

    directory: Path
    embedder: Embedder
    params: Any
    vectors: Float[np.ndarray, "models dim"]
    seconds: float

    @property
    def hash(self) -> str:
        """Of the encoder."""
        return encoder_hash(self.embedder.encoder, self.params)


class Asked(NamedTuple):
    """What the encoders answer, one each.

    Attributes:
      queries: of the data.
      orders: places of the models asked for, the nearest first.
      seconds: of one query and its search, mean over encoders.
    """

    queries: list[Query]
    orders: list[Int[np.ndarray, "candidates"]]
    seconds: float


def encode_gallery(workdir: Path, encoders: int, graphs: Sequence[Graph]) -> list[Encoded]:
    """Embeds networks by the first encoders of a run.

    Raises:
      InputError: an encoder cannot be read.
    """
    encoded, buckets = [], make_buckets(graphs)
    for number in range(encoders):
        directory = workdir / f"encoder_{number}"
        encoder, params = load_encoder(directory)
        embedder = encoded[0].embedder if encoded else Embedder(encoder)
        started = time.perf_counter()
        vectors = embedder(params, buckets, f"encoder {number}").embedding
        encoded.append(Encoded(directory, embedder, params, vectors, time.perf_counter() - started))
    return encoded


def ask_by_examples(encoded: Sequence[Encoded], candidates: Int[np.ndarray, "candidates"], images: ImageSet) -> Asked:
    """Asks with the vector that the data-set encoder gives the examples."""
    for own in encoded:
        data_query(images, own.directory, own.embedder.encoder, own.params)  # compiles what is timed next
    started = time.perf_counter()
    queries = [data_query(images, own.directory, own.embedder.encoder, own.params) for own in encoded]
    orders = [_nearest(own, candidates, query) for own, query in zip(encoded, queries, strict=True)]
    return Asked(queries, orders, (time.perf_counter() - started) / len(encoded))


def ask_by_probes(
    encoded: Sequence[Encoded], candidates: Int[np.ndarray, "candidates"], images: ImageSet, seed: int
) -> Asked:
    """Asks with the embeddings of probe models that are trained on the examples; a first call compiles."""
    started = time.perf_counter()
    probes = train_probes(images, seed)
    training = time.perf_counter() - started
    started = time.perf_counter()
    queries = [probe_query(probes, own.embedder, own.params) for own in encoded]
    orders = [_nearest(own, candidates, query) for own, query in zip(encoded, queries, strict=True)]
    return Asked(queries, orders, training + (time.perf_counter() - started) / len(encoded))


def _nearest(own: Encoded, candidates: np.ndarray, query: Query) -> np.ndarray:
    return candidates[np.argsort(-query.similarities(own.vectors[candidates]), kind="stable")]
