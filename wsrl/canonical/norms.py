"""Batch norms that can be folded into the weights before them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Tensor
from wsrl.wiring.claim import Axis, Claim
from wsrl.wiring.direction import directions, field_of, path_of

EPSILON = 1e-5  # PyTorch's and Flax's; files do not tell it
FIELDS = {
    "weight": "gain", "scale": "gain", "gamma": "gain", "bias": "shift", "beta": "shift", "running_mean": "mean",
    "mean": "mean", "moving_mean": "mean", "running_var": "variance", "var": "variance", "moving_variance": "variance",
}  # fmt: skip


@dataclass(frozen=True)
class Fold:
    """A batch norm and the weights that it follows.

    Attributes:
      weight, axis: tensor, and its axis along which the norm acts.
      bias: of the weights, if any.
      fields: `mean`, `variance`, and `gain` and `shift` where there are any -> tensor.
    """

    weight: str
    axis: int
    bias: str | None
    fields: Mapping[str, str]


@dataclass(frozen=True)
class _Site:
    """A norm or weights: the path of the module and the neurons that it acts on."""

    path: tuple[str, ...]
    neurons: tuple

    @property
    def number(self) -> int | None:
        """The last number in the module's own name."""
        found = re.findall(r"\d+", self.path[-1]) if self.path else []
        return int(found[-1]) if found else None

    def beside(self, other: "_Site") -> bool:
        """Whether both have one parent and act on the same neurons."""
        return self.path[:-1] == other.path[:-1] and self.neurons == other.neurons


def find_folds(claim: Claim) -> list[Fold]:
    """Pairs batch norms with the weights that they follow; what is ambiguous is left out.

    A norm follows weights beside it that write the same neurons: the only ones, if it is the only norm there, or those
    with the same number (`conv2` and `bn2`, `Conv_1` and `BatchNorm_1`), or with the number before where names are
    numbers alone (`downsample.0` and `downsample.1`).
    """
    fields: dict[tuple[str, ...], dict[str, str]] = {}  # by path: Flax keeps a norm's statistics in a collection apart
    for name, axes in claim.axes.items():
        if field_of(name) in FIELDS and len(axes) == 1 and axes[0] is not None:
            fields.setdefault(path_of(name), {})[FIELDS[field_of(name)]] = name
    norms = [
        (_Site(path, _neurons(claim.axes[own["mean"]][0])), own)
        for path, own in fields.items()
        if {"mean", "variance"} <= own.keys()
    ]
    weights: list[tuple[_Site, str, int, str | None]] = []
    for module in claim.modules:
        for name, direction in directions(claim, module).items():
            segments = claim.axes[name][direction.writes[0]]
            if len(direction.writes) == 1 and segments is not None:
                site = _Site(path_of(name), _neurons(segments))
                weights.append((site, name, direction.writes[0], direction.bias))
    folds = []
    for site, own in norms:
        beside = [w for w in weights if w[0].beside(site)]
        alone = sum(site.beside(other) for other, _ in norms) == 1
        offset = 1 if site.path and site.path[-1].isdigit() else 0
        numbered = [w for w in beside if site.number is not None and w[0].number == site.number - offset]
        found = beside if alone and len(beside) == 1 else numbered
        if len(found) == 1:
            _, name, axis, bias = found[0]
            folds.append(Fold(name, axis, bias, own))
    times = Counter(fold.weight for fold in folds)
    return [fold for fold in folds if times[fold.weight] == 1]


def fold_norm(
    tensors: Mapping[str, Tensor], fold: Fold
) -> tuple[Float64[np.ndarray, "units"], dict[str, Float64[np.ndarray, "units"]]]:
    """Returns what the weights are multiplied by along the norm's axis, and the norm's and bias' tensors after that.

    The norm that is left has gain 1, variance 1 and mean 0, and adds its shift, into which the weights' own bias goes;
    a norm without a shift subtracts it as its mean.
    """
    vectors = {field: read_whole(tensors[name]).astype(np.float64) for field, name in fold.fields.items()}
    mean = vectors["mean"]
    gain = vectors.get("gain", 1.0) / np.sqrt(np.maximum(vectors["variance"], 0.0) + EPSILON)
    bias = 0.0 if fold.bias is None else read_whole(tensors[fold.bias]).astype(np.float64)
    shift = vectors.get("shift", 0.0) + (bias - mean) * gain
    after = {"mean": np.zeros_like(mean), "variance": np.full_like(mean, 1 - EPSILON), "gain": np.ones_like(mean)}
    after |= {"shift": shift} if "shift" in vectors else {"mean": -shift}
    replaced = {name: after[field] for field, name in fold.fields.items()}
    if fold.bias is not None:
        replaced[fold.bias] = np.zeros_like(mean)
    return gain, replaced


def _neurons(axis: Axis) -> tuple:
    """Groups and sizes of an axis, whatever its powers."""
    return tuple((s.group, s.outer, s.size, s.inner) for s in axis or ())
