"""Where the read-out starts: two discriminant analyses of the training networks, in closed form.

Responses of classes are projected to directions in which the classes of tasks lie far apart for how far the networks of
one task lie apart (Fisher 1936; Rao 1948): what networks of one task agree on. Products of projections are whitened
by the scatter within tasks, which is shrunk towards a multiple of the identity, and cut to the principal components of
what is left, since the most discriminating ones of the training tasks serve new data sets worse.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64, Int

from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.readout import class_responses, second_order
from wsrl.encoder.swept import Swept
from wsrl.training.sampling import Examples

BLOCK = 512  # networks at a time
RESPONSE_SHRINKAGE = 3.0  # of the scatter of responses within tasks
LEAST_VARIANCE = 1e-9  # responses have unit variance, products unit length


def fit_readout(
    encoder: ResponseEncoder,
    params: Any,
    swept: Swept,
    examples: Examples,
    training: Int[np.ndarray, " m"],
    shrinkage: float,
) -> Any:
    """Returns the parameters with `responses` replaced by what the networks at `training` suggest.

    Args:
      encoder: tells rank, dim, the weights of the parts and the smoothing.
      params: of the encoder.
      swept, examples: of the whole collection.
      training: places of the networks.
      shrinkage: of the scatter of products within tasks, as a multiple of its mean variance.
    """
    task = np.unique(examples.task[training], return_inverse=True)[1]
    responses = np.concatenate(list(_responses(encoder, swept, training)))
    orders = [examples.class_order[place] for place in training]
    basis = response_basis(responses, task, orders, encoder.rank)
    products = np.concatenate(
        [np.asarray(_products(responses[at], basis, encoder.smoothing)) for at in _blocks(len(responses))],
        dtype=np.float64,
    )
    centre, metric = product_metric(products, task, encoder.dim, shrinkage)
    readout = {"basis": basis, "centre": centre, "metric": metric}
    return {**params, "responses": {key: jnp.asarray(value, jnp.float32) for key, value in readout.items()}}


def response_basis(
    responses: Float[np.ndarray, "n classes d"],
    task: Int[np.ndarray, " n"],
    orders: list[Any],
    rank: int,
) -> Float[np.ndarray, "d rank"]:
    """Directions for the responses of classes, the most telling first.

    Where a network's class order is not known, classes of different networks cannot be told to be the same, and the
    directions are the principal components.

    Args:
      responses: of each network, classes at its output neurons.
      task: of each network, 0 to the number of tasks - 1.
      orders: of each network the class of the task at each output neuron, or None.
      rank: directions; those beyond d are zero.
    """
    d = responses.shape[2]
    if any(order is None for order in orders):
        flat = responses.reshape(-1, d).astype(np.float64)
        directions = np.linalg.eigh(flat.T @ flat)[1][:, ::-1]
    else:
        aligned = np.zeros(responses.shape)
        for own, response, order in zip(aligned, responses, orders, strict=True):
            own[list(order)] = response[: len(order)]
        means = task_means(aligned, task)
        within = _scatter((aligned - means[task]).reshape(-1, d), len(aligned))
        between = _scatter(means.reshape(-1, d), len(means))
        values, directions = scipy.linalg.eigh(between, _shrunk(within, RESPONSE_SHRINKAGE))
        # a fourth root is half-way between the directions as they are and scaled by how much they tell
        directions = (directions * np.maximum(values, 0.0) ** 0.25)[:, ::-1]
    return np.pad(directions[:, :rank], [(0, 0), (0, max(0, rank - d))]).astype(np.float32)


def product_metric(
    products: Float64[np.ndarray, "n products"], task: Int[np.ndarray, " n"], dim: int, shrinkage: float
) -> tuple[Float[np.ndarray, "products"], Float[np.ndarray, "products dim"]]:
    """Centre and linear map that whitens by the scatter within tasks and keeps `dim` principal components.

    Components beyond the number of products are zero.
    """
    means = task_means(products, task)
    centre = means.mean(0)
    values, axes = np.linalg.eigh(_shrunk(_scatter(products - means[task], len(products)), shrinkage))
    whitening = axes / np.sqrt(values)
    white = (products - products.mean(0)) @ whitening
    components = np.linalg.eigh(white.T @ white)[1][:, ::-1][:, :dim]
    metric = np.pad(whitening @ components, [(0, 0), (0, dim - components.shape[1])])
    return centre, metric


def task_means(values: Float[np.ndarray, "n ..."], task: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "tasks ..."]:
    """Mean of each task; tasks are numbered from 0, and none is left out."""
    sums = np.zeros((task.max() + 1, *values.shape[1:]))
    np.add.at(sums, task, values)
    return sums / np.bincount(task).reshape(-1, *[1] * (values.ndim - 1))


def _scatter(deviations: Float64[np.ndarray, "n d"], count: int) -> Float64[np.ndarray, "d d"]:
    return deviations.T @ deviations / count


def _shrunk(scatter: Float64[np.ndarray, "d d"], shrinkage: float) -> Float64[np.ndarray, "d d"]:
    """Adds a multiple of the mean variance to all variances; never singular."""
    variance = max(np.trace(scatter) / len(scatter), LEAST_VARIANCE)
    return scatter + shrinkage * variance * np.eye(len(scatter))


def _responses(encoder: ResponseEncoder, swept: Swept, places: np.ndarray) -> Iterator[np.ndarray]:
    """Responses of the classes as they are, block by block."""
    classes = swept.mask.shape[1]
    for at in _blocks(len(places)):
        own = places[at]
        whole = swept.mask[own][:, :, None] * np.eye(classes, dtype=np.float32)
        yield np.asarray(
            _class_responses(swept.logits[own], swept.templates[own], whole, encoder.evidence, encoder.template)
        )


_class_responses = jax.jit(class_responses, static_argnums=(3, 4))


@functools.partial(jax.jit, static_argnums=2)
def _products(
    responses: Float[jax.Array, "n classes d"], basis: Float[jax.Array, "d rank"], smoothing: float
) -> jax.Array:
    return second_order(responses @ basis, smoothing)


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]
