"""The predicted accuracy: a ridge regression in closed form on what the read-out tells of the training networks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from wsrl.encoder.encoder import Encoder, Swept

SMALL = 1e-6  # least deviation of a feature
BLOCK = 512  # networks at a time


def fit_accuracy(
    encoder: Encoder,
    params: Any,
    swept: Swept,
    accuracy: Float[np.ndarray, " n"],
    training: Int[np.ndarray, " m"],
    shrinkage: float,
) -> Any:
    """Returns the parameters with those of the predicted accuracy fitted to the networks at `training`.

    Args:
      encoder, params: whose `accuracy_features` the prediction is a linear function of.
      swept, accuracy: of the whole collection; accuracies are from 0 to 1.
      training: places of the networks.
      shrinkage: added to the unit variances of the standardised features (Hoerl and Kennard 1970).
    """
    read = jax.jit(partial(encoder.apply, method="accuracy_features"))
    blocks = [training[start : start + BLOCK] for start in range(0, len(training), BLOCK)]
    features = np.concatenate([np.asarray(read({"params": params}, swept.at(own))) for own in blocks], dtype=np.float64)
    mean, deviation = features.mean(0), np.maximum(features.std(0), SMALL)
    standard = (features - mean) / deviation
    wanted = accuracy[training].astype(np.float64)
    covariance = standard.T @ standard / len(standard) + shrinkage * np.eye(standard.shape[1])
    kernel = np.linalg.solve(covariance, standard.T @ (wanted - wanted.mean()) / len(standard)) / deviation
    fitted = {"kernel": kernel[:, None], "bias": np.array([wanted.mean() - mean @ kernel])}
    return {**params, "accuracy": {key: jnp.asarray(value, jnp.float32) for key, value in fitted.items()}}
