"""Metadata: what a model hub's text search sees of a model's card."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from wsrl.extras import require
from wsrl.zoo.manifest import Record

HYPERPARAMETERS = (
    "architecture",
    "activation",
    "width",
    "depth",
    "heads",
    "strides",
    "parameters",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "init_scale",
    "dropout",
    "batch_size",
    "steps",
    "step",
)
# A card also names the data set, but neither how its images were transformed nor how its classes were
# grouped: with those two the task itself would be given.
CARD = ("dataset", "input_shape", "data_fraction", "label_noise", *HYPERPARAMETERS)


def metadata_features(records: Sequence[Record], fields: Sequence[str] = CARD) -> Float32[np.ndarray, "n terms"]:
    """TF-IDF vectors of the terms "field:value" of each card.

    Args:
      records: the models; the inverse document frequencies are those of this collection, as on a hub.
      fields: which parts of the card count. Fractions are rounded to one significant digit, so that learning
        rates drawn from a continuous range can match at all. Missing and null fields give no term.

    Returns:
      Unit vectors (zero for a card without any of the fields).
    """
    cards = [_terms(record, fields) for record in records]
    if not any(cards):
        return np.zeros((len(cards), 1), np.float32)
    vectorizer = require("sklearn.feature_extraction.text", "train").TfidfVectorizer(analyzer=list)
    return vectorizer.fit_transform(cards).toarray().astype(np.float32)


def _terms(record: Record, fields: Sequence[str]) -> list[str]:
    values = {field: record.get(field) for field in fields}
    return [f"{field}:{_text(value)}" for field, value in values.items() if value is not None]


def _text(value: Any) -> str:
    return f"{value:.1g}" if isinstance(value, float) else str(value)
