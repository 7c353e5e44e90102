"""Fits the predicted accuracy: a ridge regression in closed form on what is read out of the training networks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from wsrl.encoder.accuracy import SIGNS, in_deviations
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import Swept
from wsrl.training.discriminant_analysis import task_means
from wsrl.training.sampling import Examples

TASK_SHARE = 0.3  # of the means of tasks that is taken off: how hard tasks are counts less than what tells models apart
SIGN_SHRINKAGE = 0.03  # of the signs, which are few
SMALL = 1e-6  # least deviation of a feature
BLOCK = 512  # networks at a time


def fit_accuracy(
    encoder: ResponseEncoder,
    params: Any,
    swept: Swept,
    examples: Examples,
    training: Int[np.ndarray, " m"],
    shrinkage: float,
) -> Any:
    """Returns the parameters with those of the predicted accuracy fitted to the networks at `training`.

    Args:
      encoder, params: whose `accuracy_features` the prediction is a linear function of.
      swept, examples: of the whole collection; accuracies are from 0 to 1.
      training: places of the networks.
      shrinkage: added to the unit variances of the standardized products (Hoerl and Kennard 1970).
    """
    read = jax.jit(partial(encoder.apply, method="accuracy_features"))
    blocks = [training[start : start + BLOCK] for start in range(0, len(training), BLOCK)]
    features = np.concatenate([np.asarray(read({"params": params}, swept.at(own))) for own in blocks], dtype=np.float64)
    mean, deviation = features.mean(0), np.maximum(features.std(0), SMALL)
    standard = in_deviations(features, mean, deviation)
    wanted = examples.accuracy[training].astype(np.float64)
    both = np.column_stack([standard, wanted])
    both -= both.mean(0)
    task = np.unique(examples.task[training], return_inverse=True)[1]
    both -= TASK_SHARE * task_means(both, task)[task]
    x, y = both[:, :-1], both[:, -1]
    penalty = np.where(np.arange(x.shape[1]) < SIGNS, SIGN_SHRINKAGE, shrinkage)
    kernel = np.linalg.solve(x.T @ x / len(x) + np.diag(penalty), x.T @ y / len(x))
    bias = wanted.mean() - standard.mean(0) @ kernel
    fitted = {"mean": mean, "deviation": deviation, "kernel": kernel, "bias": bias}
    return {**params, "accuracy": {key: jnp.asarray(value, jnp.float32) for key, value in fitted.items()}}
