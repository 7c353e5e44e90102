"""From responses of output neurons and relevances of hidden ones to one vector a network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SMALL = 1e-6
LEAST_PROBABILITY = 1e-3
INVARIANTS = 4  # functions of a neuron's relevance


def standardized_logits(
    logits: Float[Array, "networks classes probes"], mask: Float[Array, "networks classes"]
) -> Float[Array, "networks classes probes"]:
    """Centres each network's logits over its classes and divides them by their root mean square.

    Architectures and recipes differ in how sure their networks are; tasks do not.
    """
    weight = mask[:, :, None]
    classes = jnp.maximum(mask.sum(1), 1.0)[:, None, None]
    centred = (logits - (logits * weight).sum(1, keepdims=True) / classes) * weight
    variance = (jnp.square(centred).sum(1, keepdims=True) / classes).mean(2, keepdims=True)
    return centred / jnp.sqrt(variance + SMALL**2)


def class_probabilities(
    logits: Float[Array, "networks classes probes"], mask: Float[Array, "networks classes"]
) -> Float[Array, "networks classes probes"]:
    """Softmax over the classes that exist; zero for the others."""
    exists = mask[:, :, None] > 0
    return jnp.where(exists, nn.softmax(jnp.where(exists, logits, -1e9), axis=1), 0.0)


class ResponseReadout(nn.Module):
    """Second-order pooling over the output neurons: sum over classes of two linear maps of the responses.

    The sum of products x_c y_c keeps which inputs fall into one class, and is blind to the order and number of classes
    (compact bilinear pooling with learned projections; Gao et al. 2016). A response is the class's probability for
    each probe, and its logarithm.
    """

    width: int
    dim: int

    @nn.compact
    def __call__(
        self,
        logits: Float[Array, "networks classes probes"],
        class_map: Float[Array, "networks classes new_classes"],
    ) -> Float[Array, "networks dim"]:
        """Returns one vector a network; `class_map` is one where an old class becomes a new one."""
        kept = class_map.sum(2)
        exists = (class_map.sum(1) > 0).astype(jnp.float32)
        sharpness = jnp.exp(self.param("sharpness", nn.initializers.constant(0.5), ()))
        probability = class_probabilities(sharpness * standardized_logits(logits, kept), kept)
        probability = jnp.einsum("ncp,ncg->ngp", probability, class_map)
        classes = jnp.maximum(exists.sum(1), 1.0)[:, None, None]
        response = probability - exists[:, :, None] / classes
        evidence = standardized_logits(jnp.log(probability + LEAST_PROBABILITY), exists)
        response = jnp.concatenate([response, evidence], -1)
        left = nn.Dense(self.width, use_bias=False)(response)
        right = nn.Dense(self.width, use_bias=False)(response)
        return nn.Dense(self.dim, use_bias=False)((left * right).sum(1))


class NeuronReadout(nn.Module):
    """A GRU over the levels of a network, each told by the mean of its neurons' invariants."""

    width: int

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "networks levels features"], exists: Bool[Array, "networks levels"]
    ) -> Float[Array, "networks width"]:
        """Returns one vector a network; levels that do not exist are skipped."""
        order = jnp.argsort(~exists, axis=1, stable=True)  # the existing ones first, in their order
        tokens = jnp.take_along_axis(tokens, order[:, :, None], axis=1)
        tokens = nn.gelu(nn.Dense(self.width)(tokens))
        lengths = jnp.maximum(exists.sum(1), 1)
        return nn.RNN(nn.GRUCell(self.width), return_carry=True)(tokens, seq_lengths=lengths)[0]


def confidence(
    logits: Float[Array, "networks classes probes"], mask: Float[Array, "networks classes"]
) -> Float[Array, "networks probes"]:
    """Entropy of each network's predictions, sorted over the probes."""
    probability = class_probabilities(logits, mask)
    return jnp.sort(-(probability * jnp.log(probability + SMALL)).sum(1), axis=1)


def neuron_invariants(
    state: Float[Array, "nodes tile positions probes"],
    sensitivity: Float[Array, "nodes tile positions probes"],
    scale: Float[Array, "nodes probes"],
) -> Float[Array, "nodes tile features"]:
    """Functions of each neuron's relevance, state times sensitivity summed over positions, in units of `scale`.

    A positive scale or a sign of a neuron multiplies its state and divides its sensitivity, so the relevance is free
    of both.
    """
    relevance = (state * sensitivity).sum(2) / scale[:, None, :]
    magnitude = jnp.abs(relevance)
    return jnp.concatenate(
        [relevance, jnp.sqrt(magnitude + SMALL), jax.nn.relu(relevance - 1.0), jnp.tanh(magnitude)], -1
    )
