"""Effective weights: tensors that PyTorch stores in parts are put together when they are read.

    weight_g, weight_v; parametrizations.weight.original0, original1            weight norm (Salimans and Kingma 2016)
    weight_orig, weight_u, weight_v; parametrizations.weight.original, 0._u, 0._v   spectral norm (Miyato et al. 2018)
    weight_orig, weight_mask                                                    pruning

The names: torch/nn/utils in https://github.com/pytorch/pytorch. `weight` stands for any name of a parameter.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from wsrl.checkpoint import LazyTensor
from wsrl.readers.derived import AT_ONCE, reshaped

NEW = re.compile(r"((?:.*\.)?)parametrizations\.([^.]+)\.(original[01]?|0\._[uv])")
OLD = re.compile(r"((?:.*\.)?[^.]+)_(g|v|u|orig|mask)")
PARTS = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "v"}  # new name -> old
SMALL = 1e-12  # the least norm that PyTorch divides by


def effective(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Replaces the parts of each tensor by the tensor that the network computes with.

    Args:
      tensors: a state_dict; parts that do not belong together stay as they are.

    Returns:
      The others and the effective ones, each at the place of its first part.
    """
    groups = _groups(tensors)
    whole: dict[str, LazyTensor] = {}
    owners: dict[str, str] = {}
    for target, names in groups.items():
        parts = {part: tensors[name] for part, name in names.items()}
        build = BUILDERS.get(frozenset(parts))
        tensor = build(parts) if build and target not in tensors else None
        if tensor is not None:
            whole[target] = replace(tensor, name=target)
            owners |= dict.fromkeys(names.values(), target)
    result: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        target = owners.get(name, name)
        result.setdefault(target, whole.get(target, tensor))
    return result


def stored_parts(
    tensors: Mapping[str, LazyTensor], whole: Mapping[str, LazyTensor]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns, of each tensor that `effective` made, the names and shapes of its parts.

    Args:
      tensors: what `effective` was given.
      whole: what it returned.
    """
    made = {target: names for target, names in _groups(tensors).items() if target in whole and target not in tensors}
    return {target: {name: tensors[name].shape for name in names.values()} for target, names in made.items()}


def _groups(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Names of tensors that may be parts of one: its name -> kind of part -> name of the part."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        if match := NEW.fullmatch(name):
            groups.setdefault(match[1] + match[2], {})[PARTS[match[3]]] = name
        elif match := OLD.fullmatch(name):
            groups.setdefault(match[1], {})[match[2]] = name
    return groups


def unknown(tensors: Mapping[str, LazyTensor]) -> list[str]:
    """Names of tensors that a parametrization holds of which nothing is known but its name."""
    return [name for name in tensors if "parametrizations" in name.split(".")]


def _weight_norm(parts: Mapping[str, LazyTensor]) -> LazyTensor | None:
    """g v / |v|, the norm over all axes on which g has one entry."""
    g, v = parts["g"], parts["v"]
    if g.size == 1:
        g = reshaped(g, (1,) * v.ndim)
    if g.ndim != v.ndim or any(n not in (1, size) for n, size in zip(g.shape, v.shape, strict=True)):
        return None
    if g.shape == v.shape:  # no norm at all: two parameters that are called so by chance
        return None
    axes = tuple(axis for axis, n in enumerate(g.shape) if n == 1)
    norms = lru_cache(maxsize=1)(lambda: _norms(v, axes))

    def rows(start: int, stop: int) -> Float[np.ndarray, "..."]:
        values = np.array(v.read_rows(start, stop), np.float32)
        if 0 in axes:
            norm, gain = norms(), np.asarray(g)
        else:
            norm = np.sqrt(np.square(values, dtype=np.float64).sum(axes, keepdims=True))
            gain = np.asarray(g.read_rows(start, stop), np.float32)
        return values * (gain / np.maximum(norm, SMALL)).astype(np.float32)

    return replace(v, dtype="float32", read_rows=rows)


def _norms(tensor: LazyTensor, axes: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Norms over axes, the first among them, a block of rows at a time."""
    total = sum(np.square(block, dtype=np.float64).sum(axes, keepdims=True) for _, block in _blocks(tensor))
    return np.sqrt(total)


def _blocks(tensor: LazyTensor):
    """Yields the number of the first row, and rows."""
    step = max(1, AT_ONCE * tensor.num_rows // max(tensor.size, 1))
    for start in range(0, tensor.num_rows, step):
        yield start, np.asarray(tensor.read_rows(start, start + step), np.float32)


def _spectral_norm(parts: Mapping[str, LazyTensor]) -> LazyTensor | None:
    """The matrix over its largest singular value u W v; for a transposed convolution its second axis comes first."""
    stored, u, v = parts["orig"], parts["u"], parts["v"]
    if stored.ndim < 2 or u.ndim != 1 or v.ndim != 1 or u.size * v.size != stored.size:
        return None
    axes = [axis for axis in (0, 1) if stored.shape[axis] == u.size]
    if not axes:
        return None

    @lru_cache(maxsize=1)
    def sigma() -> np.float32:
        left, right = np.asarray(u, np.float64), np.asarray(v, np.float64)
        values = np.zeros(len(axes))
        for start, block in _blocks(stored):
            for i, axis in enumerate(axes):
                moved = np.moveaxis(block, axis, 0).reshape(block.shape[axis], -1)
                if axis == 0:
                    values[i] += left[start : start + len(block)] @ (moved @ right)
                else:
                    within = right.reshape(stored.shape[0], -1)[start : start + len(block)]
                    values[i] += left @ (moved @ within.reshape(-1))
        return np.float32(max(values.max(), SMALL))  # the singular value, if the vectors fit both ways

    return replace(stored, dtype="float32", read_rows=lambda start, stop: stored.read_rows(start, stop) / sigma())


def _pruned(parts: Mapping[str, LazyTensor]) -> LazyTensor | None:
    stored, mask = parts["orig"], parts["mask"]
    if stored.shape != mask.shape:
        return None

    def rows(start: int, stop: int) -> np.ndarray:
        return np.asarray(stored.read_rows(start, stop), np.float32) * np.asarray(
            mask.read_rows(start, stop), np.float32
        )

    return replace(stored, dtype="float32", read_rows=rows)


BUILDERS: Mapping[frozenset[str], Callable[[Mapping[str, LazyTensor]], LazyTensor | None]] = {
    frozenset("gv"): _weight_norm,
    frozenset(("orig", "u", "v")): _spectral_norm,
    frozenset(("orig", "mask")): _pruned,
}
