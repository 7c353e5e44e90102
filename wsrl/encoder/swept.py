"""What the sweeps tell of networks, and what is read out of it: in NumPy or in JAX, wherever the arrays come from."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from wsrl.arrays import namespace, resized
from wsrl.encoder.accuracy import accuracy_signs, predicted_accuracy
from wsrl.encoder.readout import read_out
from wsrl.encoder.shape import EncoderShape

SMALL = 1e-12
LARGEST = 1e15  # of answers: sums of squares of such are still finite in float32


class Swept(NamedTuple):
    """What the sweeps tell of each network.

    Attributes:
      logits: response of the output neurons to the learned inputs.
      templates: of each output neuron, the image that raises its logit fastest: the gradient of the logit, less the
        mean of the classes', with respect to the input, averaged over learned inputs and blurred.
      mask: 1 for output neurons that exist.
    """

    logits: Float[Any, "networks classes probes"]
    templates: Float[Any, "networks classes pixels"]
    mask: Float[Any, "networks classes"]

    def at(self, places: np.ndarray | slice) -> "Swept":
        """Some of the networks."""
        return Swept(*(leaf[places] for leaf in self))


class Encoding(NamedTuple):
    """What the encoder says of each network.

    Attributes:
      embedding: unit vectors, float32.
      accuracy: predicted accuracy on held-out data, 0 to 1.
    """

    embedding: Float[Any, "networks dim"]
    accuracy: Float[Any, "networks"]


def read(shape: EncoderShape, params: Mapping[str, Any], swept: Swept) -> Encoding:
    """Reads out embeddings and predicted accuracies; `params` are those of an encoder."""
    embedding, products = respond_as_they_are(shape, params, swept)
    features = with_signs(params, swept, products)
    return Encoding(unit_vectors(embedding), predicted_accuracy(params["accuracy"], features))


def respond_as_they_are(
    shape: EncoderShape, params: Mapping[str, Any], swept: Swept
) -> tuple[Float[Any, "networks dim"], Float[Any, "networks products"]]:
    """Vectors of any length, and the products of the classes' responses, of the classes as the networks have them."""
    classes = namespace(swept.mask).eye(swept.mask.shape[1], dtype=swept.mask.dtype)
    return read_out(shape, params["responses"], swept.logits, swept.templates, swept.mask[:, :, None] * classes)


def with_signs(
    params: Mapping[str, Any], swept: Swept, products: Float[Any, "networks products"]
) -> Float[Any, "networks features"]:
    """What predicted accuracies are a function of: signs, then the products of the classes' responses, of which the
    embedding keeps what tells tasks apart and not what tells networks of a task apart.
    """
    return namespace(products).concatenate([accuracy_signs(*swept, params["inputs"]), products], -1)


def unit_vectors(vectors: Float[Any, "networks dim"]) -> Float[Any, "networks dim"]:
    """Vectors scaled to length 1."""
    xp = namespace(vectors)
    return vectors / xp.sqrt(xp.square(vectors).sum(-1, keepdims=True) + SMALL)


def no_answers(encoder: EncoderShape) -> Swept:
    """One network with one class that answers nothing, by whose shapes parameters are drawn."""
    pixels = math.prod(encoder.input_shape[:2])
    logits, templates = (np.zeros((1, 1, size), np.float32) for size in (encoder.probes, pixels))
    return Swept(logits, templates, np.ones((1, 1), np.float32))


def bounded(values: Float[Any, "..."]) -> Float[Any, "..."]:
    """What networks answer, at most `LARGEST`; zero where it is not a number.

    Finite weights may be large enough to overflow on the way; such a network must not spoil what is told of others.
    """
    return namespace(values).nan_to_num(values, posinf=LARGEST, neginf=-LARGEST).clip(-LARGEST, LARGEST)


def fit_inputs(
    inputs: Float[Any, "probes height width channels"], shape: tuple[int, int, int]
) -> Float[Any, "probes height_out width_out channels_out"]:
    """Resizes inputs to what a network is fed; the mean of the channels serves another number of channels."""
    if inputs.shape[3] != shape[2]:
        inputs = namespace(inputs).broadcast_to(inputs.mean(3, keepdims=True), (*inputs.shape[:3], shape[2]))
    if inputs.shape[1:] == shape:
        return inputs
    channels_first = namespace(inputs).moveaxis(inputs, 3, 1)
    return namespace(inputs).moveaxis(resized(channels_first, shape[:2]), 1, 3)
