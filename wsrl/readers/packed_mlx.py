"""Weights as MLX quantizes them: words of codes of 2 to 8 bits, value = scale code + bias, both a group of inputs.

    layer.weight, layer.scales, layer.biases

The layout: https://github.com/ml-explore/mlx, `mlx/ops.cpp`, "affine_quantize"; the settings lie in `config.json`.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from wsrl.checkpoint import LazyTensor
from wsrl.readers.derived import unpacked

BITS, GROUPS = (2, 3, 4, 5, 6, 8), (64, 32, 128)  # the first group is MLX's own default

Tensors = Mapping[str, LazyTensor]
Found = tuple[str, LazyTensor, tuple[str, ...]]  # the weight's name, the weight, names of what it is made of


def affine_words(name: str, tensors: Tensors, settings: Mapping) -> Found | None:
    """See packed_weights.unpack_words.

    Without settings the number of bits follows from the size of a group, which is guessed: one that gives the weight as
    many inputs as another tensor of the file has entries, else the default.
    """
    layer = name.removesuffix("weight")
    parts = (name, f"{layer}scales", f"{layer}biases")
    if layer == name or any(part not in tensors for part in parts):
        return None
    stored, scales, biases = (tensors[part] for part in parts)
    if stored.dtype != "uint32" or scales.shape != biases.shape or scales.shape[:-1] != stored.shape[:-1]:
        return None
    span, rest = divmod(32 * stored.shape[-1], scales.shape[-1])  # bits of a group
    own = settings.get(layer.removesuffix("."))
    group = {**settings, **own}.get("group_size") if isinstance(own, Mapping) else settings.get("group_size")
    fitting = [g for g in GROUPS if span % g == 0 and span // g in BITS]
    if rest or not fitting:
        return None
    if group not in fitting:
        lengths = {n for other, t in tensors.items() if other not in parts and t.ndim for n in (t.shape[0], t.size)}
        group = next((g for g in fitting if g * scales.shape[-1] in lengths), fitting[0])
    bits, inputs = span // group, group * scales.shape[-1]
    shape = (*stored.shape[:-1], inputs)
    inner = prod(stored.shape[1:])

    def rows(start: int, stop: int) -> np.ndarray:
        words = np.asarray(stored.read_rows(start, stop))
        packed = np.ascontiguousarray(words).view(np.uint8).reshape(-1)
        codes = unpacked(packed, bits, (len(words), *shape[1:]), lambda c: c)(0, len(words)) if inner else words
        grouped = codes.astype(np.float32).reshape(*codes.shape[:-1], scales.shape[-1], group)
        grouped *= np.asarray(scales.read_rows(start, stop), np.float32)[..., None]
        grouped += np.asarray(biases.read_rows(start, stop), np.float32)[..., None]
        return grouped.reshape(codes.shape)

    return name, replace(stored, shape=shape, dtype=f"quint{bits}", read_rows=rows), parts
