"""Contrastive losses over a global batch of unit vectors.

Two networks are positives if they have the same label, negatives if they have not; a label below zero marks padding.
Networks of one lineage (a run, its checkpoints and its fine-tuned children) are neither: they are alike for other
reasons than their task. Negatives of the query's own architecture are hard: they resemble it for that reason.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wsrl.training.sampling import Targets

LOSSES = ("supervised_contrastive", "margin")


def pair_masks(targets: Targets) -> tuple[Bool[Array, "n n"], Bool[Array, "n n"]]:
    """Masks of positive and negative pairs."""
    label, lineage = jnp.asarray(targets.label), jnp.asarray(targets.lineage)
    exists = (label >= 0)[:, None] & (label >= 0)[None, :]
    comparable = exists & (lineage[:, None] != lineage[None, :])
    same = label[:, None] == label[None, :]
    return comparable & same, comparable & ~same


def negative_weights(targets: Targets, hard: float) -> Float[Array, "n n"]:
    """How much each pair counts if it is negative: `hard` within an architecture, 1 across."""
    architecture = jnp.asarray(targets.architecture)
    return jnp.where(architecture[:, None] == architecture[None, :], hard, 1.0)


def supervised_contrastive(
    embedding: Float[Array, "n dim"], targets: Targets, temperature: float, hard: float
) -> Float[Array, ""]:
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2); with one positive a query it is InfoNCE."""
    positive, negative = pair_masks(targets)
    logits = embedding @ embedding.T / temperature
    weighted = logits + jnp.where(negative, jnp.log(negative_weights(targets, hard)), 0.0)
    pairs = positive | negative
    partition = jax.nn.logsumexp(jnp.where(pairs, weighted, -jnp.inf), axis=1, where=pairs)
    count = positive.sum(1)
    has_pair = count > 0
    log_likelihood = jnp.where(positive, logits - jnp.where(has_pair, partition, 0.0)[:, None], 0.0).sum(1)
    return -(log_likelihood / jnp.maximum(count, 1)).sum() / jnp.maximum(has_pair.sum(), 1)


def margin(embedding: Float[Array, "n dim"], targets: Targets, width: float, hard: float) -> Float[Array, ""]:
    """Margin loss y d^2 + (1 - y) max(0, width - d)^2 on distances d (Hadsell et al. 2006, eq. 4).

    Positive and negative pairs are averaged apart, since there are many more negatives.
    """
    positive, negative = pair_masks(targets)
    weight = jnp.where(negative, negative_weights(targets, hard), 0.0)
    square = jnp.maximum(2.0 - 2.0 * embedding @ embedding.T, 0.0)
    distance = jnp.sqrt(square + 1e-12)
    pull = jnp.where(positive, square, 0.0).sum() / jnp.maximum(positive.sum(), 1)
    push = (weight * jnp.square(jnp.maximum(0.0, width - distance))).sum()
    return pull + push / jnp.maximum(weight.sum(), 1.0)


def contrastive(
    name: str, embedding: Float[Array, "n dim"], targets: Targets, scale: float, hard: float
) -> Float[Array, ""]:
    """The loss called `name`.

    Args:
      name: one of `LOSSES`.
      embedding: of unit length.
      targets: of the same networks.
      scale: the temperature, or the width of the margin.
      hard: weight of negatives of the same architecture.

    Raises:
      ValueError: no loss has this name.
    """
    if name == "supervised_contrastive":
        return supervised_contrastive(embedding, targets, scale, hard)
    if name == "margin":
        return margin(embedding, targets, scale, hard)
    raise ValueError(f"loss {name!r} is none of {', '.join(LOSSES)}")
