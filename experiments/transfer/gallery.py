"""The trained networks as a search sees them, and what it answers for the labeled images of a target."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np
from jaxtyping import Float, Float32

from experiments.tables.encoded_gallery import Encoded, encode_gallery
from experiments.transfer.heads import Start
from experiments.transfer.sources import ARCHITECTURES
from experiments.transfer.targets import CLASSES
from wsrl.data import ImageSet
from wsrl.encoder.files import PRETRAINED
from wsrl.graph.size import network_size
from wsrl.graph.tiles import TILE
from wsrl.recommendation.data_query import data_query
from wsrl.recommendation.probes import ARCHITECTURES as PROXIES
from wsrl.recommendation.probes import Query, probe_query, train_probes
from wsrl.recommendation.start_score import StartScore, load_start_score, predict_start
from wsrl.search.query_expansion import QueryExpansion
from wsrl.zoo.finetuning import with_head
from wsrl.zoo.load import load_networks
from wsrl.zoo.manifest import Record
from wsrl.zoo.models import Classifier
from wsrl.zoo.stacked import Tree, initialize

RANDOM = 3  # networks of random weights of each architecture
EACH = 2  # proxies of an architecture


class Gallery(NamedTuple):
    """Networks to start from, by place.

    Attributes:
      records, starts, sizes: of equal length; see `wsrl.graph.size.network_size`.
      encoded: what the encoder of the package makes of them.
      around: their neighborhoods.
      score: the start score of the package.
    """

    records: list[Record]
    starts: list[Start]
    sizes: Float32[np.ndarray, "models 3"]
    encoded: Encoded
    around: QueryExpansion
    score: StartScore


class Answer(NamedTuple):
    """Scores of all networks, more is better, and the CPU seconds that it took to tell them."""

    scores: Float[np.ndarray, "models"]
    seconds: float


def load_gallery(directory: Path, records: Sequence[Record]) -> Gallery:
    """Reads networks of a zoo that `train_sources` made and embeds them.

    Raises:
      InputError: the encoder of the package cannot be read.
    """
    networks = load_networks(directory, records, TILE)
    (encoded,) = encode_gallery([PRETRAINED], networks.graphs)
    trees = [flax.traverse_util.unflatten_dict(dict(c.tensors), sep="/") for c in networks.checkpoints]
    starts = [
        without_head(headless(record.architecture), {"batch_stats": {}} | tree)
        for record, tree in zip(networks.records, trees, strict=True)
    ]
    return Gallery(
        networks.records,
        starts,
        np.stack([network_size(graph) for graph in networks.graphs]),
        encoded,
        QueryExpansion.build(encoded.vectors, encoded.kinds),
        load_start_score(PRETRAINED, encoded.hash),
    )


def headless(architecture: str) -> Classifier:
    """An architecture with the output neurons of a target, so that networks of all sources share programs."""
    return ARCHITECTURES[architecture].clone(num_classes=CLASSES)


def without_head(model: Classifier, variables: Tree) -> Start:
    """A network whose head answers nothing."""
    name = max(name for name in variables["params"] if name.startswith("Dense_"))
    features = variables["params"][name]["kernel"].shape[0]
    kernel, bias = np.zeros((features, CLASSES), np.float32), np.zeros(CLASSES, np.float32)
    return Start(model, with_head(variables, kernel, bias))


def random_starts(image_size: int, seed: int) -> dict[str, list[Start]]:
    """Networks of random weights, initialized as usual, by architecture."""
    return {
        name: [
            Start(headless(name), initialize(headless(name), image_size, 1000 * (seed + 1) + i, 1.0))
            for i in range(RANDOM)
        ]
        for name in ARCHITECTURES
    }


def ask_by_data(gallery: Gallery, examples: ImageSet) -> dict[str, Answer]:
    """Similarities to the data set's own vector, as `data`, and start scores, as `start`; a first call compiles."""
    own: Any = gallery.encoded
    started = time.process_time()
    query = data_query(examples, own.directory, own.embedder.encoder, own.params)
    asked = time.process_time()
    similarity = _similarities(gallery, query)
    found = time.process_time()
    start = predict_start(gallery.score, own.vectors, gallery.sizes, query)
    scored = time.process_time()
    return {
        "data": Answer(similarity, found - started),
        "start": Answer(start, asked - started + scored - found),
    }


def ask_by_proxies(gallery: Gallery, examples: ImageSet, seed: int) -> Answer:
    """Similarities to the function vectors of small networks trained on the examples; a first call compiles."""
    started = time.process_time()
    proxies = train_probes(examples, seed, PROXIES[:2], EACH)
    query = probe_query(proxies, gallery.encoded.embedder, gallery.encoded.params)
    return Answer(_similarities(gallery, query), time.process_time() - started)


def _similarities(gallery: Gallery, query: Query) -> Float[np.ndarray, "models"]:
    return gallery.around.similarities(query.vectors, query.kinds).mean(0)
