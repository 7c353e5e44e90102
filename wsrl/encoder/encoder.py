"""The encoder in Flax: forward and backward sweeps over a batch of networks, and a unit vector for each."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsrl.encoder.accuracy import SIGNS
from wsrl.encoder.readout import read_out
from wsrl.encoder.shape import EncoderShape
from wsrl.encoder.sweep import States, class_gradients, forward_sweep, output_logits
from wsrl.encoder.swept import (
    Encoding,
    Swept,
    bounded,
    fit_inputs,
    read,
    respond_as_they_are,
    unit_vectors,
    with_signs,
)
from wsrl.encoder.templates import blurred, fit_gradients
from wsrl.graph.batching import Batch


class ReadoutParameters(nn.Module):
    """Parameters of `read_out`. `wsrl.training.discriminant_analysis.fit_readout` finds where they start."""

    responses: int
    rank: int
    dim: int

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        """Returns them by name."""
        products = self.rank * (self.rank + 1) // 2
        return {
            "basis": self.param("basis", nn.initializers.orthogonal(), (self.responses, self.rank)),
            "centre": self.param("centre", nn.initializers.zeros, (products,)),
            "metric": self.param("metric", nn.initializers.orthogonal(), (products, self.dim)),
        }


class AccuracyParameters(nn.Module):
    """Parameters of `predicted_accuracy`. `wsrl.training.fit_accuracy` finds them."""

    features: int

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        """Returns them by name."""
        starts = {"mean": nn.initializers.zeros, "deviation": nn.initializers.ones, "kernel": nn.initializers.zeros}
        found = {name: self.param(name, start, (self.features,)) for name, start in starts.items()}
        return found | {"bias": self.param("bias", nn.initializers.zeros, ())}


class ResponseEncoder(nn.Module, EncoderShape):
    """Sweeps inputs through networks and reads out what the output neurons answer; see `EncoderShape` for attributes.

    Forward, the sweeps find the responses of output neurons to learned inputs; backward, their templates.
    """

    def setup(self) -> None:
        """Declares the parameters."""
        products = self.rank * (self.rank + 1) // 2
        self.inputs = self.param("inputs", nn.initializers.normal(0.5), (self.probes, *self.input_shape))
        self.responses = ReadoutParameters(self.response_size, self.rank, self.dim)
        self.accuracy = AccuracyParameters(SIGNS + products)

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
            gradients = class_gradients(batch, chunks[: self.pulled // self.chunk], self.respond)
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
        params = {"inputs": self.inputs, "responses": self.responses(), "accuracy": self.accuracy()}
        return read(self, params, swept)

    def accuracy_features(self, swept: Swept) -> Float[Any, "networks features"]:
        """What predicted accuracies are a function of; see `with_signs`."""
        params = {"inputs": self.inputs, "responses": self.responses()}
        return with_signs(params, swept, respond_as_they_are(self, params, swept)[1])

    def embed(
        self, swept: Swept, class_map: Float[Any, "networks classes new_classes"] | None = None
    ) -> Float[Any, "networks dim"]:
        """Reads out embeddings, which the output neurons alone decide.

        Args:
          swept: from `sweep`.
          class_map: one where an output neuron's class becomes a new class; classes with none are left out, classes
            with the same one are merged. None leaves the classes as they are.
        """
        params = self.responses()
        if class_map is None:
            return unit_vectors(respond_as_they_are(self, {"responses": params}, swept)[0])
        merged = swept.mask[:, :, None] * class_map
        return unit_vectors(read_out(self, params, swept.logits, swept.templates, merged)[0])
