"""Contrastive losses over a global batch of unit vectors.

Two networks are positives if they have the same label, negatives if they have not; a label below zero marks padding.
Networks of one lineage (a run, its checkpoints and its fine-tuned children) are neither: they are alike for other
reasons than their task.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

LOSSES = ("supervised_contrastive", "margin")


def pair_masks(label: Int[Array, "n"], lineage: Int[Array, "n"]) -> tuple[Bool[Array, "n n"], Bool[Array, "n n"]]:
    """Masks of positive and negative pairs."""
    exists = (label >= 0)[:, None] & (label >= 0)[None, :]
    comparable = exists & (lineage[:, None] != lineage[None, :])
    same = label[:, None] == label[None, :]
    return comparable & same, comparable & ~same


def supervised_contrastive(
    embedding: Float[Array, "n dim"], label: Int[Array, "n"], lineage: Int[Array, "n"], temperature: float
) -> Float[Array, ""]:
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2); with one positive a query it is InfoNCE."""
    positive, negative = pair_masks(label, lineage)
    logits = embedding @ embedding.T / temperature
    partition = jax.nn.logsumexp(jnp.where(positive | negative, logits, -jnp.inf), axis=1, where=positive | negative)
    count = positive.sum(1)
    has_pair = count > 0
    log_likelihood = jnp.where(positive, logits - jnp.where(has_pair, partition, 0.0)[:, None], 0.0).sum(1)
    return -(log_likelihood / jnp.maximum(count, 1)).sum() / jnp.maximum(has_pair.sum(), 1)


def margin(
    embedding: Float[Array, "n dim"], label: Int[Array, "n"], lineage: Int[Array, "n"], width: float
) -> Float[Array, ""]:
    """Margin loss y d^2 + (1 - y) max(0, width - d)^2 on distances d (Hadsell et al. 2006, eq. 4).

    Positive and negative pairs are averaged apart, since there are many more negatives.
    """
    positive, negative = pair_masks(label, lineage)
    square = jnp.maximum(2.0 - 2.0 * embedding @ embedding.T, 0.0)
    distance = jnp.sqrt(square + 1e-12)
    pull = jnp.where(positive, square, 0.0).sum() / jnp.maximum(positive.sum(), 1)
    push = jnp.where(negative, jnp.square(jnp.maximum(0.0, width - distance)), 0.0).sum()
    return pull + push / jnp.maximum(negative.sum(), 1)


def contrastive(
    name: str, embedding: Float[Array, "n dim"], label: Int[Array, "n"], lineage: Int[Array, "n"], scale: float
) -> Float[Array, ""]:
    """The loss called `name`; `scale` is its temperature or the width of its margin.

    Raises:
      ValueError: no loss has this name.
    """
    if name == "supervised_contrastive":
        return supervised_contrastive(embedding, label, lineage, scale)
    if name == "margin":
        return margin(embedding, label, lineage, scale)
    raise ValueError(f"loss {name!r} is none of {', '.join(LOSSES)}")
