"""The predicted accuracy, and signs of it in what a network answers to inputs of other data.

The signs tell how sure a network is, how linear, how smooth and spread its templates are: not what its classes are,
which tells the data set, and carries over to other data sets less.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from wsrl.arrays import namespace
from wsrl.encoder.readout import SHARPNESS, class_probabilities, entropies, entropy, standardized
from wsrl.encoder.templates import blurred

LEVELS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)  # quantiles over inputs
BLURS = (0.7, 2.0, 6.0)  # pixels
SIGNS = 2 * len(LEVELS) + len(BLURS) + 6
SMALL = 1e-6
LEAST_ENERGY = 1e-4  # that a template keeps when it is blurred
LARGEST = 4.0  # of a feature, in deviations; what lies further out is like no network of the fit
LARGEST_MARGIN = 10.0  # that of a network with one class


def predicted_accuracy(params: Mapping[str, Any], features: Float[Any, "networks features"]) -> Float[Any, "networks"]:
    """A linear function of standardized features, from 0 to 1.

    Args:
      params: `mean`, `deviation`, `kernel` [features] and `bias`, which `wsrl.training.fit_accuracy` finds.
      features: of each network.
    """
    standard = in_deviations(features, params["mean"], params["deviation"])
    return (standard @ params["kernel"] + params["bias"]).clip(0.0, 1.0)


def in_deviations(
    features: Float[Any, "networks features"], mean: Float[Any, " features"], deviation: Float[Any, " features"]
) -> Float[Any, "networks features"]:
    """Standardized features, `LARGEST` at most; the fit and the prediction share it."""
    return ((features - mean) / deviation).clip(-LARGEST, LARGEST)


def accuracy_signs(
    logits: Float[Any, "networks classes probes"],
    templates: Float[Any, "networks classes pixels"],
    mask: Float[Any, "networks classes"],
    inputs: Float[Any, "probes height width channels"],
) -> Float[Any, "networks signs"]:
    """Signs that do not depend on the order of the classes, and on their number as little as can be.

    Args:
      logits, templates, mask: see `wsrl.encoder.swept.Swept`.
      inputs: that the networks answered.

    Returns:
      Quantiles over inputs of the entropy of the prediction, as a share of the largest; quantiles of the margin by
      which the first class leads, whatever the scale of the logits; energy of the templates that is left when they are
      blurred (log); entropy of their energy over the image; correlation of the logits with what the templates alone,
      as a linear network, would answer; entropy of the mean prediction; share of the logits' root mean square that no
      input changes; in how few directions the logits and the templates vary (log).
    """
    xp, exists = namespace(logits), mask[:, :, None]
    doubt = xp.log(xp.maximum(mask.sum(1), 2.0))
    answers, slopes = _centered(logits, exists), _centered(templates, exists)
    alike = standardized(logits, mask)
    probability = class_probabilities(SHARPNESS * alike, mask)
    constant = answers.mean(2, keepdims=True)
    varying = _unit(answers - constant)
    pixels = inputs.mean(3).reshape(len(inputs), -1)
    linear = slopes @ (pixels - pixels.mean(0)).T
    linear = linear - linear.mean(2, keepdims=True)
    signs = [
        _quantiles(entropies(logits, mask) / doubt[:, None]),
        _quantiles(_margins(alike, exists)),
        _blurred_energy(slopes, (inputs.shape[1], inputs.shape[2])),
        entropy(xp.square(slopes).sum(1)),
        (_unit(linear) * varying).sum((1, 2)),
        entropy(probability.mean(2)) / doubt,
        xp.sqrt(xp.square(constant).sum((1, 2)) * len(inputs)),
        _directions(varying) + doubt,
        _directions(slopes) + doubt,
    ]
    return xp.concatenate([values.reshape(len(mask), -1) for values in signs], -1)


def _unit(values: Float[Any, "networks classes features"]) -> Float[Any, "networks classes features"]:
    """Scaled to a sum of squares of 1, or 0 where all are zero."""
    xp = namespace(values)
    return values / (xp.sqrt(xp.square(values).sum((1, 2), keepdims=True)) + SMALL**2)


def _centered(
    values: Float[Any, "networks classes features"], exists: Float[Any, "networks classes 1"]
) -> Float[Any, "networks classes features"]:
    """Less their mean over the classes that exist, scaled to a sum of squares of 1."""
    mean = (values * exists).sum(1, keepdims=True) / namespace(values).maximum(exists.sum(1, keepdims=True), 1.0)
    return _unit((values - mean) * exists)


def _quantiles(values: Float[Any, "networks probes"]) -> Float[Any, "networks levels"]:
    xp = namespace(values)
    return xp.quantile(values, xp.asarray(LEVELS, dtype=values.dtype), axis=1).T


def _margins(
    logits: Float[Any, "networks classes probes"], exists: Float[Any, "networks classes 1"]
) -> Float[Any, "networks probes"]:
    """How far the first class leads the second."""
    xp = namespace(logits)
    ranked = xp.where(exists > 0, logits, -np.inf)
    padded = xp.pad(ranked, [(0, 0), (2, 0), (0, 0)], constant_values=-np.inf)  # for networks with one class or none
    ranked = xp.sort(padded, axis=1)
    first, second = ranked[:, -1], ranked[:, -2]
    lead = xp.where(xp.isfinite(second), first - second, LARGEST_MARGIN)
    return xp.minimum(lead, LARGEST_MARGIN)


def _blurred_energy(
    slopes: Float[Any, "networks classes pixels"], size: tuple[int, int]
) -> Float[Any, "networks blurs"]:
    """Logarithms of the share of their energy that images keep when they are blurred."""
    xp, images = namespace(slopes), slopes.reshape(*slopes.shape[:2], *size)
    energy = [xp.square(blurred(images, deviation)).sum((1, 2, 3)) for deviation in BLURS]
    return xp.log(xp.stack(energy, -1) + LEAST_ENERGY)


def _directions(values: Float[Any, "networks classes features"]) -> Float[Any, " networks"]:
    """Logarithm of the sum of the squared shares that the principal directions have; 0 for one direction."""
    xp = namespace(values)
    return xp.log(xp.square(values @ values.swapaxes(1, 2)).sum((1, 2)) + SMALL)
