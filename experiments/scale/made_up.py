"""Models that are made up around vectors."""

import hashlib

import numpy as np
from jaxtyping import Float32

from wsrl.embedded import Embedded
from wsrl.search.catalog import Model, Place

LEAST, KINDS = 1000, 1000  # parameters, and how many numbers of them there are
LICENSES = ("mit", "apache-2.0", "other")


def parameters_of(numbers: np.ndarray) -> np.ndarray:
    """Parameters of models by their numbers: each of KINDS values is that of as many."""
    return LEAST + numbers * 389 % KINDS


def made_up(number: int) -> Model:
    """A model of a number, whose vector stands in the row of that number."""
    name, digest = f"models/{number:08d}.safetensors", hashlib.sha256(str(number).encode()).hexdigest()
    metadata = {"license": LICENSES[number % 3], "downloads": number % 1000}
    parameters = int(parameters_of(np.array(number)))
    return Model(
        name, name, None, digest, digest, f"kind {number % 7}", parameters, None, (), "not run", (), {}, metadata, (),
        Place(1, number, None, 0),
    )  # fmt: skip


def embedded(model: Model, vector: Float32[np.ndarray, " dim"]) -> Embedded:
    """What an encoder would say of a model."""
    return Embedded(
        model.id, model.content_digest, model.weights_digest, model.architecture, model.parameters, vector, None,
        "not run", None, (), {}, (),
    )  # fmt: skip
