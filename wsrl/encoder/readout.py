"""From the responses of output neurons to one vector a network."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from wsrl.arrays import namespace, softmax
from wsrl.encoder.shape import EncoderShape

SMALL = 1e-6
LEAST_PROBABILITY = 1e-3
SHARPNESS = 1.6  # of the probabilities: the deviation of the logits that they are made of


def standardized(
    values: Float[Any, "networks classes features"], mask: Float[Any, "networks classes"]
) -> Float[Any, "networks classes features"]:
    """Centers each network's values over its classes and divides them by their root mean square.

    Architectures and recipes differ in how sure their networks are; tasks do not.
    """
    xp, weight = namespace(values), mask[:, :, None]
    classes = xp.maximum(mask.sum(1), 1.0)[:, None, None]
    centered = (values - (values * weight).sum(1, keepdims=True) / classes) * weight
    variance = (xp.square(centered).sum(1, keepdims=True) / classes).mean(2, keepdims=True)
    return centered / xp.sqrt(variance + SMALL**2)


def class_probabilities(
    logits: Float[Any, "networks classes probes"], mask: Float[Any, "networks classes"]
) -> Float[Any, "networks classes probes"]:
    """Softmax over the classes that exist; zero for the others."""
    xp, exists = namespace(logits), mask[:, :, None] > 0
    return xp.where(exists, softmax(xp.where(exists, logits, -1e9), axis=1), 0.0)


def class_responses(
    logits: Float[Any, "networks classes probes"],
    templates: Float[Any, "networks classes pixels"],
    class_map: Float[Any, "networks classes new_classes"],
    evidence: float,
    template: float,
) -> Float[Any, "networks new_classes responses"]:
    """What each class answers: its probability for each probe, the logarithm of it, and its template.

    Args:
      logits, templates: see `wsrl.encoder.swept.Swept`.
      class_map: one where an old class becomes a new one.
      evidence, template: weights of the second and third part, each of which has unit mean square otherwise; a part of
        weight zero is left out.
    """
    xp, kept = namespace(logits), class_map.sum(2)
    members = class_map.sum(1)
    exists = (members > 0).astype(logits.dtype)
    probability = class_probabilities(SHARPNESS * standardized(logits, kept), kept)
    groups = class_map.swapaxes(1, 2)
    probability = groups @ probability
    parts = [standardized(probability, exists)]
    if evidence:
        parts.append(evidence * standardized(xp.log(probability + LEAST_PROBABILITY), exists))
    if template:
        merged = groups @ templates / xp.maximum(members, 1.0)[:, :, None]
        parts.append(template * standardized(merged, exists))
    return xp.concatenate(parts, -1)


def second_order(projected: Float[Any, "networks classes rank"], smoothing: float) -> Float[Any, "networks products"]:
    """Products of all pairs of components, summed over classes made orthogonal; of length 1.

    With responses X [classes, rank], scaled to a sum of squares of 1, these are the entries of

        X^T (X X^T + smoothing I)^-1 X,

    the smoothed projection to what the responses of the classes span. It keeps which inputs fall into one class, and
    is blind to the order and number of classes, as the plain sum X^T X is (bilinear pooling; Lin et al. 2015), which
    it turns to as the smoothing grows. But the plain sum is ruled by those differences between classes that a network
    is surest of; here all count about alike, as in matrix power normalization (Li et al. 2017), and networks are
    compared by the subspaces of their answers (Hamm and Lee 2008). A pair stands once, off the diagonal times the root
    of 2, as long as in the full matrix.
    """
    xp = namespace(projected)
    scaled = projected / xp.sqrt(xp.square(projected).sum((1, 2), keepdims=True) + SMALL**2)
    smooth = smoothing * xp.eye(projected.shape[1], dtype=projected.dtype)
    orthogonal = solve_positive_definite(scaled @ scaled.swapaxes(1, 2) + smooth, scaled)
    rows, columns = np.triu_indices(projected.shape[2])
    products = (scaled.swapaxes(1, 2) @ orthogonal)[:, rows, columns]
    products *= xp.asarray(np.where(rows == columns, 1.0, np.sqrt(2.0)), dtype=products.dtype)
    return products / xp.sqrt(xp.square(products).sum(-1, keepdims=True) + (SMALL / smoothing) ** 2)


def solve_positive_definite(
    matrix: Float[Any, "n size size"], right: Float[Any, "n size columns"]
) -> Float[Any, "n size columns"]:
    """Solves matrix x = right; in JAX by Gauss-Jordan elimination, which needs no pivots where matrices are positive
    definite.

    In place of `jnp.linalg.solve`: on a CPU with few threads two such calls of one program can wait for each other for
    ever (jaxlib 0.10; each hands its batch to the thread pool that it runs in, and blocks a thread of it).
    """
    if namespace(matrix) is np:
        return np.linalg.solve(matrix, right)
    import jax  # which whoever has such matrices has imported
    import jax.numpy as jnp

    size = matrix.shape[1]

    def eliminate(step: Any, rows: Float[Any, "n size width"]) -> Float[Any, "n size width"]:
        pivot = rows[:, step] / rows[:, step, step, None]
        return (rows - rows[:, :, step, None] * pivot[:, None]).at[:, step].set(pivot)

    return jax.lax.fori_loop(0, size, eliminate, jnp.concatenate([matrix, right], axis=2))[:, :, size:]


def read_out(
    shape: EncoderShape,
    params: Mapping[str, Any],
    logits: Float[Any, "networks classes probes"],
    templates: Float[Any, "networks classes pixels"],
    class_map: Float[Any, "networks classes new_classes"],
) -> tuple[Float[Any, "networks dim"], Float[Any, "networks products"]]:
    """Second-order pooling over the output neurons, then a linear metric.

    Args:
      shape: of the encoder.
      params: `basis` [responses, rank], `centre` [products] and `metric` [products, dim].
      logits, templates, class_map: see `class_responses`.

    Returns:
      One vector a network, and the products that it is a linear function of.
    """
    responses = class_responses(logits, templates, class_map, shape.evidence, shape.template)
    found = second_order(responses @ params["basis"], shape.smoothing)
    return (found - params["centre"]) @ params["metric"], found


def entropies(
    logits: Float[Any, "networks classes probes"], mask: Float[Any, "networks classes"]
) -> Float[Any, "networks probes"]:
    """Entropy of each network's prediction for each probe."""
    return entropy(class_probabilities(logits, mask))


def entropy(probability: Float[Any, "networks outcomes ..."]) -> Float[Any, "networks ..."]:
    """Of distributions over outcomes."""
    return -(probability * namespace(probability).log(probability + SMALL)).sum(1)
