"""What the features of networks are worth for a target, without training them: fitted heads, class means, LogME."""

import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int64

from wsrl.data import normalize
from wsrl.recommendation.logme import log_maximum_evidence
from wsrl.zoo.bank import ImageBank
from wsrl.zoo.finetuning import adapt_statistics, fit_head, read_features
from wsrl.zoo.models import Classifier
from wsrl.zoo.stacked import Tree

BLOCK = 256  # images that features are read of at a time
UNLABELED = 64  # images of a target that batch normalization takes its statistics from, for all networks alike
SMALL = 1e-6


class Start(NamedTuple):
    """A network to start from: its architecture and variables."""

    model: Classifier
    variables: Tree


class Worth(NamedTuple):
    """What one network's features are worth.

    Attributes:
      head: accuracy of a head fitted to the labeled images by ridge regression.
      few_shot: accuracy of the nearest class mean.
      evidence: LogME of the labeled images.
      seconds: CPU seconds of LogME alone, without reading the features.
    """

    head: float
    few_shot: float
    evidence: float
    seconds: float


def target_features(
    start: Start, bank: ImageBank, rows: Int64[np.ndarray, " n"], unlabeled: Int64[np.ndarray, " m"]
) -> tuple[Float32[np.ndarray, "n features"], float]:
    """What the last layer of a network reads of some images, and the CPU seconds of one image.

    Args:
      start: the network; its batch normalization gets the statistics of the unlabeled images.
      bank: the images.
      rows: of the images.
      unlabeled: rows of other images, always the same number.
    """
    variables = start.variables
    if variables["batch_stats"]:
        variables = _adapt(start.model, variables, bank.images[unlabeled])
    padded = np.resize(rows, -(-len(rows) // BLOCK) * BLOCK)
    found = [np.asarray(_read(start.model, variables, bank.images[padded[:BLOCK]]))]  # compiles what is timed next
    started = time.process_time()
    found += [
        np.asarray(_read(start.model, variables, bank.images[padded[i : i + BLOCK]]))
        for i in range(BLOCK, len(padded), BLOCK)
    ]
    seconds = (time.process_time() - started) / max(len(padded) - BLOCK, 1)
    return np.concatenate(found)[: len(rows)], seconds


@functools.partial(jax.jit, static_argnums=0)
def _adapt(model: Classifier, variables: Tree, images: Array) -> Tree:
    return adapt_statistics(model, variables, normalize(images)[..., None])


@functools.partial(jax.jit, static_argnums=0)
def _read(model: Classifier, variables: Tree, images: Array) -> Array:
    return read_features(model, variables, normalize(images)[..., None])


def worth(
    labeled: Float[np.ndarray, "n features"],
    labels: Int64[np.ndarray, " n"],
    held_out: Float[np.ndarray, "m features"],
    truth: Int64[np.ndarray, " m"],
    classes: int,
) -> Worth:
    """Measures what features are worth; `labels` and `truth` are the classes of the labeled and held-out images."""
    kernel, bias = fit_head(labeled, labels, classes)
    head = np.mean((held_out @ kernel + bias).argmax(1) == truth)
    centre, spread = labeled.mean(0), labeled.std(0) + SMALL
    ours, theirs = ((features - centre) / spread for features in (labeled, held_out))
    means = np.stack([ours[labels == label].mean(0) for label in range(classes)])
    nearest = (2 * theirs @ means.T - np.square(means).sum(1)).argmax(1)
    started = time.process_time()
    evidence = log_maximum_evidence(labeled, labels)
    return Worth(float(head), float(np.mean(nearest == truth)), evidence, time.process_time() - started)


def mean_worth(found: Sequence[Worth]) -> Worth:
    """The mean over networks of one kind."""
    return Worth(*np.mean(found, axis=0).tolist())
