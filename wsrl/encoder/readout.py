"""From the responses of output neurons to one vector a network, and what they tell of its accuracy."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

SMALL = 1e-6
LEAST_PROBABILITY = 1e-3
SHARPNESS = 1.6  # of the probabilities: the deviation of the logits that they are made of


def standardized(
    values: Float[Array, "networks classes features"], mask: Float[Array, "networks classes"]
) -> Float[Array, "networks classes features"]:
    """Centres each network's values over its classes and divides them by their root mean square.

    Architectures and recipes differ in how sure their networks are; tasks do not.
    """
    weight = mask[:, :, None]
    classes = jnp.maximum(mask.sum(1), 1.0)[:, None, None]
    centred = (values - (values * weight).sum(1, keepdims=True) / classes) * weight
    variance = (jnp.square(centred).sum(1, keepdims=True) / classes).mean(2, keepdims=True)
    return centred / jnp.sqrt(variance + SMALL**2)


def class_probabilities(
    logits: Float[Array, "networks classes probes"], mask: Float[Array, "networks classes"]
) -> Float[Array, "networks classes probes"]:
    """Softmax over the classes that exist; zero for the others."""
    exists = mask[:, :, None] > 0
    return jnp.where(exists, nn.softmax(jnp.where(exists, logits, -1e9), axis=1), 0.0)


def class_responses(
    logits: Float[Array, "networks classes probes"],
    templates: Float[Array, "networks classes pixels"],
    class_map: Float[Array, "networks classes new_classes"],
    evidence: float,
    template: float,
) -> Float[Array, "networks new_classes responses"]:
    """What each class answers: its probability for each probe, the logarithm of it, and its template.

    Args:
      logits, templates: see `wsrl.encoder.encoder.Swept`.
      class_map: one where an old class becomes a new one.
      evidence, template: weights of the second and third part, each of which has unit mean square otherwise; a part of
        weight zero is left out.
    """
    kept = class_map.sum(2)
    members = class_map.sum(1)
    exists = (members > 0).astype(logits.dtype)
    probability = class_probabilities(SHARPNESS * standardized(logits, kept), kept)
    probability = jnp.einsum("ncp,ncg->ngp", probability, class_map)
    parts = [standardized(probability, exists)]
    if evidence:
        parts.append(evidence * standardized(jnp.log(probability + LEAST_PROBABILITY), exists))
    if template:
        merged = jnp.einsum("ncp,ncg->ngp", templates, class_map) / jnp.maximum(members, 1.0)[:, :, None]
        parts.append(template * standardized(merged, exists))
    return jnp.concatenate(parts, -1)


def second_order(
    projected: Float[Array, "networks classes rank"],
) -> Float[Array, "networks products"]:
    """Sum over classes of the products of all pairs of components, of length 1.

    The sum keeps which inputs fall into one class, and is blind to the order and number of classes (bilinear pooling;
    Lin et al. 2015). A pair stands once, off the diagonal times the root of 2, as long as in the full matrix.
    """
    rows, columns = jnp.triu_indices(projected.shape[2])
    products = jnp.einsum("ncp,ncq->npq", projected, projected)[:, rows, columns]
    products *= jnp.where(rows == columns, 1.0, jnp.sqrt(2.0))
    return products / jnp.sqrt(jnp.square(products).sum(-1, keepdims=True) + SMALL**2)


class ResponseReadout(nn.Module):
    """Second-order pooling over the output neurons, then a linear metric.

    `wsrl.encoder.fisher.fit_readout` finds where its parameters start.

    Attributes:
      rank: components that responses are projected to.
      dim: of the embedding.
      evidence, template: see `class_responses`.
    """

    rank: int
    dim: int
    evidence: float
    template: float

    @nn.compact
    def __call__(
        self,
        logits: Float[Array, "networks classes probes"],
        templates: Float[Array, "networks classes pixels"],
        class_map: Float[Array, "networks classes new_classes"],
    ) -> Float[Array, "networks dim"]:
        """Returns one vector a network."""
        responses = class_responses(logits, templates, class_map, self.evidence, self.template)
        products = self.rank * (self.rank + 1) // 2
        basis = self.param("basis", nn.initializers.orthogonal(), (responses.shape[2], self.rank))
        centre = self.param("centre", nn.initializers.zeros, (products,))
        metric = self.param("metric", nn.initializers.orthogonal(), (products, self.dim))
        return (second_order(responses @ basis) - centre) @ metric


def entropies(
    logits: Float[Array, "networks classes probes"], mask: Float[Array, "networks classes"]
) -> Float[Array, "networks probes"]:
    """Entropy of each network's prediction for each probe."""
    probability = class_probabilities(logits, mask)
    return -(probability * jnp.log(probability + SMALL)).sum(1)


def confidence(
    logits: Float[Array, "networks classes probes"], mask: Float[Array, "networks classes"]
) -> Float[Array, "networks probes"]:
    """Entropies of each network's predictions, sorted over the probes."""
    return jnp.sort(entropies(logits, mask), axis=1)
