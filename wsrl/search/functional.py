"""Models of an index that have a function vector, as recommendation needs them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.search.file_identity import located
from wsrl.search.store import Store


class Functional(NamedTuple):
    """Models that have a function vector which data can be compared with.

    Attributes:
      ids, architectures, accuracies: see `wsrl.embedded.Embedded`.
      vectors: of length 1.
      metadata, paths: see `wsrl.search.hit.Hit`.
    """

    ids: list[str]
    architectures: list[str]
    vectors: Float32[np.ndarray, "n dim"]
    metadata: list[dict[str, object]]
    accuracies: list[float | None]
    paths: list[str]


def functional_models(store: Store) -> Functional:
    """Returns all models of an index whose function vector was read out, as that of a query for data is.

    Those that were run by their operators have another one, and no predicted accuracy.
    """
    catalog = store.catalog
    functional = [model for model in catalog.models() if model.place.function is not None]
    rows = [row for row, model in enumerate(functional) if model.accuracy is not None]
    models = [functional[row] for row in rows]
    return Functional(
        [model.id for model in models],
        [model.architecture for model in models],
        store.functions[rows],
        [{**model.metadata, **catalog.annotations(model.id)} for model in models],
        [model.accuracy for model in models],
        [located(store.directory, model.path) for model in models],
    )
