"""Which models of an index suit labeled examples, from their vectors: none of them is run unless that is asked for."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsrl.data import ImageSet
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.encoder.files import PRETRAINED
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.search.index import Index

if TYPE_CHECKING:
    from wsrl.recommendation.answer import Answer

QUERIES = ("probes", "examples")


def recommend(
    index: str | Path,
    data: str,
    encoder: str | Path | None = None,
    query: str | None = None,
    start: bool = False,
    logme: bool = False,
    data_dir: str | None = None,
    max_images: int = 5000,
    seed: int = 0,
    progress: bool = False,
) -> "tuple[ImageSet, Answer]":
    """Ranks the models of an index for a data set.

    Args:
      index: folder that `wsrl index` made.
      data: labeled examples, see `wsrl.data.load_image_set`.
      encoder: folder of the encoder of the index; None for that of the package.
      query: ask by "probes", small models that are trained on the examples for some seconds, or by the "examples"' own
        vector; by default probes, unless `start` is set.
      start: rank by how good a start for fine-tuning the weights say that a model is, not by how near it is.
      logme: rank the first `NEAR` anew by LogME of their features of the examples.
      data_dir: of prepared TFDS data sets.
      max_images: drawn from the data.
      seed: of draws and of the probes.
      progress: show progress lines on stderr.

    Returns:
      The examples, and the ranked models.

    Raises:
      InputError: the index, the data or the encoder cannot be used.
    """
    require("flax", "jax")
    from wsrl.encoder.embed import Embedder
    from wsrl.encoder.export import encoder_hash
    from wsrl.encoder.export import load_encoder as load_network
    from wsrl.recommendation import answer
    from wsrl.recommendation.data_query import data_query
    from wsrl.recommendation.examples import load_examples
    from wsrl.recommendation.probes import probe_query, train_probes
    from wsrl.recommendation.start_score import load_start_score

    directory = PRETRAINED if encoder is None else Path(encoder)
    network, params = load_network(directory)
    images = load_examples(data, data_dir, network.input_shape[0], max_images, seed)
    opened = Index.open(index, load_encoder(directory))
    score = load_start_score(directory, encoder_hash(network, params)) if start else None
    models = opened.functional()
    if not models.ids:
        reason = "holds no model with a function vector of the kind that data can be compared with"
        raise InputError(index, reason, "index small image classifiers")
    if query == "probes" or (query is None and not start):
        asked = probe_query(train_probes(images, seed), Embedder(network), params)
    else:
        asked = data_query(images, directory, network, params)
    found = answer.rank_by_similarity(models, asked)
    hits = answer.rank_by_start(opened, models, asked, score) if score else found.hits
    if logme:
        near, rest = hits[: answer.NEAR], hits[answer.NEAR :]
        hits = answer.rank_by_logme(near, opened, images, "features" if progress else None) + rest
    return images, replace(found, hits=hits)
