"""Moves a network within the symmetries that a claim names."""

from collections.abc import Mapping

import numpy as np

from wsrl.wiring.claim import Claim


def permuted(tensors: Mapping[str, np.ndarray], claim: Claim, seed: int) -> dict[str, np.ndarray]:
    """Returns the tensors after a random permutation of every permutable group."""
    rng = np.random.default_rng(seed)
    orders = {name: rng.permutation(g.size) if g.permutable else np.arange(g.size) for name, g in claim.groups.items()}
    moved = {}
    for name, tensor in tensors.items():
        for axis, segments in enumerate(claim.axes[name]):
            if segments is None:
                continue
            index, start = [], 0
            for s in segments:
                places = np.arange(s.length).reshape(s.outer, s.size, s.inner)
                index.append(start + (places[:, orders[s.group]] if s.group else places).ravel())
                start += s.length
            tensor = np.take(tensor, np.concatenate(index), axis)
        moved[name] = tensor
    return moved
