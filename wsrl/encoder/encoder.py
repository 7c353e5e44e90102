"""The encoder: forward and backward sweeps over a batch of networks, and a unit vector for each."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wsrl.arrays import namespace, resized
from wsrl.encoder.accuracy import AccuracyHead, accuracy_signs
from wsrl.encoder.readout import ResponseReadout
from wsrl.encoder.sweep import States, forward_sweep, output_logits
from wsrl.encoder.templates import blurred, class_gradients, fit_gradients
from wsrl.graph.batching import Batch

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


class ResponseEncoder(nn.Module):
    """Sweeps inputs through networks and reads out what the output neurons answer.

    Forward, the sweeps find the responses of output neurons to learned inputs; backward, their templates.

    Attributes:
      probes: learned inputs, swept forward.
      input_shape: [height, width, channels] of the learned inputs; networks of other shapes get them resized.
      dim: of the embedding.
      rank: components of the responses that the read-out takes products of.
      evidence, template: weights of log probabilities and of templates beside probabilities; zero leaves them out.
      smoothing: of the projection to what the classes' responses span, above 0; see `second_order` of the read-out.
      gradient_probes: the first of the learned inputs, which are also swept backward, for templates.
      blur: standard deviation of the blur of templates, in pixels.
      chunk: learned inputs swept at a time; small enough for the states to stay in cache.
      dtype: of the sweeps.
    """

    probes: int = 128
    input_shape: tuple[int, int, int] = (16, 16, 1)
    dim: int = 128
    rank: int = 64
    evidence: float = 0.5
    template: float = 0.5
    smoothing: float = 0.1
    gradient_probes: int = 64
    blur: float = 0.8
    chunk: int = 8
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the parameters."""
        self.inputs = self.param("inputs", nn.initializers.normal(0.5), (self.probes, *self.input_shape))
        self.responses = ResponseReadout(self.rank, self.dim, self.evidence, self.template, self.smoothing)
        self.accuracy = AccuracyHead()

    @property
    def response_size(self) -> int:
        """Numbers that tell what a class answers."""
        pixels = self.input_shape[0] * self.input_shape[1]
        return self.probes * (1 + (self.evidence != 0)) + pixels * (self.template != 0)

    def __call__(
        self, batch: Batch, class_map: Float[Any, "networks classes new_classes"] | None = None
    ) -> Float[Any, "networks dim"]:
        """Embeds a batch; its last network is padding. See `embed` for `class_map`."""
        return self.embed(self.sweep(batch), class_map)

    def sweep(self, batch: Batch) -> Swept:
        """Sweeps the learned inputs through a batch of networks."""
        inputs = fit_inputs(self.inputs, batch.plan.input_shape).astype(self.dtype)
        chunks = inputs.reshape(-1, self.chunk, *inputs.shape[1:])
        logits, mask = output_logits(batch)
        swept = jax.lax.map(lambda chunk: logits(self.respond(batch, chunk)), chunks)
        swept = jnp.moveaxis(swept, 0, 2).reshape(*swept.shape[1:3], self.probes)
        templates = jnp.zeros((*mask.shape, math.prod(self.input_shape[:2])))
        if self.template:
            gradients = class_gradients(batch, chunks[: -(-self.gradient_probes // self.chunk)], self.respond)
            templates = blurred(fit_gradients(gradients, batch.plan.input_shape, self.input_shape[:2]), self.blur)
        return Swept(
            logits=bounded(swept.astype(jnp.float32)),
            templates=bounded(templates.reshape(*mask.shape, -1).astype(jnp.float32)),
            mask=mask,
        )

    @nn.nowrap
    def respond(
        self,
        batch: Batch,
        inputs: Float[Array, "probes height width channels"],
        shift: Float[Array, "networks pixels"] | None = None,
    ) -> States:
        """States of all neurons; see `forward_sweep`."""
        return forward_sweep(batch, inputs, shift)

    def read(self, swept: Swept) -> Encoding:
        """Reads out embeddings and predicted accuracies."""
        embedding, products = self._respond_as_they_are(swept)
        return Encoding(unit_vectors(embedding), self.accuracy(self._with_signs(swept, products)))

    def accuracy_features(self, swept: Swept) -> Float[Any, "networks features"]:
        """What predicted accuracies are a function of: signs, then the products of the classes' responses, of which the
        embedding keeps what tells tasks apart and not what tells networks of a task apart.
        """
        return self._with_signs(swept, self._respond_as_they_are(swept)[1])

    def _respond_as_they_are(self, swept: Swept) -> tuple[Float[Any, "networks dim"], Float[Any, "networks products"]]:
        classes = namespace(swept.mask).eye(swept.mask.shape[1], dtype=swept.mask.dtype)
        return self.responses(swept.logits, swept.templates, swept.mask[:, :, None] * classes)

    def _with_signs(self, swept: Swept, products: Float[Any, "networks products"]) -> Float[Any, "networks features"]:
        return namespace(products).concatenate([accuracy_signs(*swept, self.inputs), products], -1)

    def embed(
        self, swept: Swept, class_map: Float[Any, "networks classes new_classes"] | None = None
    ) -> Float[Any, "networks dim"]:
        """Reads out embeddings, which the output neurons alone decide.

        Args:
          swept: from `sweep`.
          class_map: one where an output neuron's class becomes a new class; classes with none are left out, classes
            with the same one are merged. None leaves the classes as they are.
        """
        if class_map is None:
            return unit_vectors(self._respond_as_they_are(swept)[0])
        return unit_vectors(self.responses(swept.logits, swept.templates, swept.mask[:, :, None] * class_map)[0])


def unit_vectors(vectors: Float[Any, "networks dim"]) -> Float[Any, "networks dim"]:
    """Vectors scaled to length 1."""
    xp = namespace(vectors)
    return vectors / xp.sqrt(xp.square(vectors).sum(-1, keepdims=True) + SMALL)


def no_answers(encoder: ResponseEncoder) -> Swept:
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
