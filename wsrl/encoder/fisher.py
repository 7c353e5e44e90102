"""Where the read-out starts: a discriminant analysis of the training networks, in closed form.

Responses are projected to their principal components, and the metric on products of components is that of Fisher's
linear discriminants (Fisher 1936; Rao 1948): directions in which tasks lie far apart for how far the networks of one
task lie apart. Random class maps make many tasks out of one (see `wsrl.encoder.sampling`), which is what keeps a metric
of some thousand dimensions from overfitting; the within-task scatter is shrunk towards a multiple of the identity.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from wsrl.encoder.encoder import Encoder, Swept
from wsrl.encoder.readout import class_responses, second_order
from wsrl.encoder.sampling import Examples, class_map_array, draw_class_map

BLOCK = 512  # networks at a time


def fit_readout(
    encoder: Encoder,
    params: Any,
    swept: Swept,
    examples: Examples,
    training: Int[np.ndarray, " m"],
    draws: int,
    merge_share: float,
    shrinkage: float,
    seed: int,
) -> Any:
    """Returns the parameters with `responses` replaced by the discriminant analysis of the networks at `training`.

    Args:
      encoder: tells rank, dim and the weights of the parts.
      params: of the encoder.
      swept, examples: of the whole collection.
      training: places of the networks.
      draws: class maps a task, beside the one that leaves the classes as they are.
      merge_share: see `draw_class_map`.
      shrinkage: of the within-task scatter, as a share of its mean variance.
      seed: of the class maps.
    """
    classes = swept.mask.shape[1]
    tasks, task = np.unique(examples.task[training], return_inverse=True)
    weights = encoder.evidence, encoder.template

    def responses(places: np.ndarray, maps: np.ndarray) -> jax.Array:
        own = [leaf[places] for leaf in (swept.logits, swept.templates)]
        return _responses(*own, maps * swept.mask[places][:, :, None], *weights)

    whole = np.broadcast_to(np.eye(classes, dtype=np.float32), (len(training), classes, classes))
    covariance = 0.0
    for at in _blocks(len(training)):
        found = np.asarray(responses(training[at], whole[at]), np.float64).reshape(-1, encoder.response_size)
        covariance += found.T @ found
    basis = np.linalg.eigh(covariance)[1][:, ::-1][:, : encoder.rank].astype(np.float32)

    rng = np.random.default_rng([seed, 4])
    size = encoder.rank * (encoder.rank + 1) // 2
    within, means = np.zeros((size, size)), []
    for draw in range(draws + 1):
        maps = whole
        if draw:
            known = {t: len(examples.class_order[training[np.argmax(task == t)]] or ()) for t in range(len(tasks))}
            drawn = [draw_class_map(known[t], 1.0, merge_share, rng) for t in range(len(tasks))]
            orders = [examples.class_order[place] for place in training]
            maps = np.stack([class_map_array(drawn[t], o, classes) for t, o in zip(task, orders, strict=True)])
        products = np.concatenate(
            [np.asarray(_products(responses(training[at], maps[at]), basis)) for at in _blocks(len(training))]
        ).astype(np.float64)
        order = np.argsort(task, kind="stable")
        mean = np.add.reduceat(products[order], np.searchsorted(task[order], np.arange(len(tasks))))
        mean /= np.bincount(task)[:, None]
        means.append(mean)
        deviations = products - mean[task]
        within += deviations.T @ deviations
    means = np.concatenate(means)
    within /= len(training) * (draws + 1)
    within += shrinkage * np.trace(within) / size * np.eye(size)
    centre = means.mean(0)
    between = np.cov(means.T)
    first = max(0, size - encoder.dim)
    _, metric = scipy.linalg.eigh(between, within, subset_by_index=(first, size - 1))
    metric = np.pad(metric[:, ::-1], [(0, 0), (0, encoder.dim - metric.shape[1])])
    readout = {"basis": basis, "centre": centre, "metric": metric}
    return {**params, "responses": {key: jnp.asarray(value, jnp.float32) for key, value in readout.items()}}


_responses = jax.jit(class_responses, static_argnums=(3, 4))


@jax.jit
def _products(responses: Float[jax.Array, "n classes d"], basis: Float[jax.Array, "d rank"]) -> jax.Array:
    return second_order(responses @ basis)


def _blocks(count: int) -> list[slice]:
    """Slices of equal size, nearly, so that few programs are compiled."""
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]
