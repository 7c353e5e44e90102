"""Which blocks tell tasks apart, learned from children whose tasks are known.

One weight a block is all that is learned, so that what is learned of some tasks holds for others. The loss is the
supervised contrastive one (Khosla et al. 2020) on the similarities of `wsrl.relative.metric`, each child's counted from
their mean in units of their deviation, as they are ranked.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from wsrl.errors import InputError
from wsrl.relative.metric import Metric, kind_weights
from wsrl.relative.vector import Block

MOST = 600  # children that are learned from; the memory that it takes grows with their square
STEPS, RATE = 400, 0.03
DECAY = 0.01  # of the squared logarithms of the weights, relative to where they start
TINY = 1e-9


def fit_weights(
    vectors: Float[np.ndarray, "n dim"], task: Int[np.ndarray, " n"], blocks: Sequence[Block], seed: int = 0
) -> Float32[np.ndarray, " blocks"]:
    """Returns weights of the blocks for `Metric`.

    Args:
      vectors: of children of one base.
      task: label of each.
      blocks: of the vectors.
      seed: of the draw, if there are more than 600 children.

    Raises:
      InputError: no task has two children, or there is one task alone.
    """
    chosen = np.random.default_rng([seed, 64]).permutation(len(vectors))[:MOST]
    vectors, label = vectors[chosen], task[chosen]
    positive = (label[:, None] == label) & ~np.eye(len(label), dtype=bool)
    if not positive.any() or len(np.unique(label)) < 2:
        mend = "name a key that two children have the same value of, and others another one"
        raise InputError("tasks", "are too few to learn from", mend)
    start = kind_weights(blocks)
    metric = Metric(vectors, blocks, np.ones(len(blocks), np.float32))
    scaled, there = metric.describe(vectors)
    cosines = np.stack([scaled[:, block.entries] @ scaled[:, block.entries].T for block in blocks])
    both = there.T[:, :, None] * there.T[:, None, :]
    logarithms = _train(jnp.asarray(cosines), jnp.asarray(both), jnp.asarray(positive), jnp.asarray(start))
    weights = start * np.exp(np.asarray(logarithms))
    return (weights * start.sum() / weights.sum()).astype(np.float32)


@jax.jit
def _train(
    cosines: Float[Array, "blocks n n"],
    both: Float[Array, "blocks n n"],
    positive: Array,
    start: Float[Array, " blocks"],
) -> Float[Array, " blocks"]:
    others = ~jnp.eye(len(positive), dtype=bool)
    count = positive.sum(1)

    def loss(params: Float[Array, " blocks_and_1"]) -> Float[Array, ""]:
        weights = start * jnp.exp(params[:-1])
        total = jnp.maximum(jnp.tensordot(weights, both, 1), TINY)
        scores = jnp.tensordot(weights, cosines, 1) / total
        less = scores - (scores * others).sum(0) / others.sum(0)
        deviation = jnp.sqrt((jnp.square(less) * others).sum(0) / others.sum(0))
        logits = jnp.exp(params[-1]) * less / jnp.maximum(deviation, TINY)
        partition = jax.nn.logsumexp(jnp.where(others, logits, -jnp.inf), axis=1)
        likelihood = jnp.where(positive, logits - partition[:, None], 0.0).sum(1) / jnp.maximum(count, 1)
        return -likelihood.sum() / (count > 0).sum() + DECAY * jnp.square(params[:-1]).sum()

    def step(number: Int[Array, ""], state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        params, first, second = state  # Adam (Kingma and Ba 2015)
        gradient = jax.grad(loss)(params)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        scale = jnp.sqrt(second / (1 - 0.999 ** (number + 1.0))) + 1e-8
        return params - RATE * first / (1 - 0.9 ** (number + 1.0)) / scale, first, second

    zeros = jnp.zeros(len(start) + 1)
    return jax.lax.fori_loop(0, STEPS, step, (zeros, zeros, zeros))[0][:-1]
