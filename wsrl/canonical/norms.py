"""Batch norms that can be folded into the weights before them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Tensor
from wsrl.wiring.wiring import Operation, Wiring

STATISTICS = {"mean", "variance"}
BETWEEN = ("pooling", "sum_activation", "followed_by")  # facts of what comes before the next operation
FOLDED_INTO = ("linear", "conv", "transposed conv")


@dataclass(frozen=True)
class Fold:
    """A batch norm and the weights that it follows.

    Attributes:
      weight, axis: tensor, and its axis along which the norm acts.
      bias: of the weights, if any.
      fields: `mean`, `variance`, and `gain` and `shift` where there are any -> tensor.
      epsilon: that the norm adds to the variance.
    """

    weight: str
    axis: int
    bias: str | None
    fields: Mapping[str, str]
    epsilon: float


def find_folds(wiring: Wiring) -> list[Fold]:
    """Finds the batch norms that alone read what a single layer returns, so that both are one affine map.

    A norm whose place among the layers is assumed is left alone.
    """
    readers: list[list[int]] = [[] for _ in wiring.operations]
    for i, operation in enumerate(wiring.operations):
        for j in operation.inputs:
            readers[j].append(i)
    folds = []
    for i, norm in enumerate(wiring.operations):
        alone = len(norm.inputs) == 1 and readers[norm.inputs[0]] == [i]
        if alone and norm.tensors.keys() >= STATISTICS and norm.source != "assumed":
            fold = _fold(wiring, wiring.operations[norm.inputs[0]], norm)
            folds += [fold] if fold is not None else []
    return folds


def _fold(wiring: Wiring, layer: Operation, norm: Operation) -> Fold | None:
    weights = list(layer.weights())
    if layer.type not in FOLDED_INTO or len(weights) != 1 or _something_between(layer):
        return None
    weight, axes, bias = weights[0]
    fields = {role: tensor for role, tensor in norm.tensors.items() if role in {*STATISTICS, "gain", "shift"}}
    vectors = [*fields.values(), *([bias] if bias else [])]
    if len(axes) != 1 or any(wiring.shapes[vector] != (wiring.shapes[weight][axes[0]],) for vector in vectors):
        return None
    epsilon = norm.facts["epsilon"].value if "epsilon" in norm.facts else None
    return Fold(weight, axes[0], bias, fields, epsilon) if isinstance(epsilon, float) else None


def _something_between(layer: Operation) -> bool:
    """Whether a graph or a configuration tells that a layer's values change before the next operation reads them."""
    told = {key: fact.value for key, fact in layer.facts.items() if fact.source in ("graph", "config")}
    return told.get("activation") not in (None, "none") or any(key in told for key in BETWEEN)


def fold_norm(
    tensors: Mapping[str, Tensor], fold: Fold
) -> tuple[Float64[np.ndarray, "units"], dict[str, Float64[np.ndarray, "units"]]]:
    """Returns what the weights are multiplied by along the norm's axis, and the norm's and bias' tensors after that.

    The norm that is left has gain 1, variance 1 and mean 0, and adds its shift, into which the weights' own bias goes;
    a norm without a shift subtracts it as its mean.
    """
    vectors = {field: read_whole(tensors[name]).astype(np.float64) for field, name in fold.fields.items()}
    mean = vectors["mean"]
    bias = np.zeros_like(mean) if fold.bias is None else read_whole(tensors[fold.bias]).astype(np.float64)
    gain, shift = norm_as_affine(vectors, fold.epsilon, bias)
    after = {"mean": np.zeros_like(mean), "variance": np.full_like(mean, 1 - fold.epsilon), "gain": np.ones_like(mean)}
    after |= {"shift": shift} if "shift" in vectors else {"mean": -shift}
    replaced = {name: after[field] for field, name in fold.fields.items()}
    if fold.bias is not None:
        replaced[fold.bias] = np.zeros_like(mean)
    return gain, replaced


def norm_as_affine(
    vectors: Mapping[str, Float64[np.ndarray, "units"]], epsilon: float, bias: Float64[np.ndarray, "units"]
) -> tuple[Float64[np.ndarray, "units"], Float64[np.ndarray, "units"]]:
    """Returns what a batch norm multiplies weights by, and what it adds to their products.

    Args:
      vectors: `mean` and `variance`, and `gain` and `shift` where there are any.
      epsilon: that the norm adds to the variance.
      bias: of the weights.
    """
    gain = vectors.get("gain", 1.0) / np.sqrt(np.maximum(vectors["variance"], 0.0) + epsilon)
    return gain, vectors.get("shift", 0.0) + (bias - vectors["mean"]) * gain
