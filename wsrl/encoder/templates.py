"""Templates: of each class of a network the image that raises its logit fastest."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wsrl.arrays import namespace, resized
from wsrl.encoder.sweep import States, forward_sweep, output_logits
from wsrl.graph.batching import Batch

SMALL = 1e-12


def class_gradients(
    batch: Batch,
    chunks: Float[Array, "chunks probes height width channels"],
    respond: Callable[[Batch, Array, Array], States] = forward_sweep,
) -> Float[Array, "networks classes rows"]:
    """Gradient of each class's logit, less the mean of the classes', with respect to the input, averaged over inputs.

    One row a channel and pixel, as in `input_rows`. The networks of a batch share their inputs, so each gets a shift of
    its own, which is added to all of its inputs; the gradient with respect to it is the sum over them. `respond` finds
    the states, as `forward_sweep` does.
    """
    logits, mask = output_logits(batch)
    share = mask / jnp.maximum(mask.sum(1, keepdims=True), 1.0)
    none = jnp.zeros((len(mask), math.prod(batch.plan.input_shape)), chunks.dtype)

    def of_chunk(inputs: Array) -> Array:
        def centered(shift: Array) -> Array:
            found = logits(respond(batch, inputs, shift)).mean(2)
            return found - (found * share).sum(1, keepdims=True)

        outputs, pull = jax.vjp(centered, none)
        one_class = jnp.eye(outputs.shape[1], dtype=outputs.dtype)[: batch.plan.classes]
        return jax.lax.map(lambda row: pull(row * mask.astype(row.dtype))[0], one_class)

    found = jax.lax.map(of_chunk, chunks).mean(0)
    return jnp.pad(found.swapaxes(0, 1), [(0, 0), (0, mask.shape[1] - found.shape[0]), (0, 0)])


def fit_gradients(
    gradients: Float[Any, "networks classes rows"], shape: tuple[int, int, int], size: tuple[int, int]
) -> Float[Any, "networks classes height width"]:
    """Sums gradients, one row a channel and pixel of inputs [height, width, channels], over channels; resizes them."""
    images = gradients.reshape(*gradients.shape[:2], shape[2], *shape[:2]).sum(2)
    return images if shape[:2] == size else resized(images, size)


def blurred(
    images: Float[Any, "networks classes height width"], deviation: float
) -> Float[Any, "networks classes height width"]:
    """Convolves images with a Gaussian; at the border it is cut off and normalized."""

    def kernel(size: int) -> Any:
        place = np.arange(size)
        weights = np.exp(-0.5 * (np.subtract.outer(place, place) / max(deviation, SMALL)) ** 2)
        return namespace(images).asarray(weights / weights.sum(1, keepdims=True), dtype=images.dtype)

    return kernel(images.shape[2]) @ images @ kernel(images.shape[3]).T
