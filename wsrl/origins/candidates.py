"""Which models of an index may be copies or relatives of one another: cheap, and with more than there are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from wsrl.search.nearest import NearestNeighbors
from wsrl.search.store import Store

COSINE = 0.8  # of weights vectors of copies, at least; of other networks of one architecture few come near
FIRST = 16  # neighbors that are asked for; twice as many again while all of them are near


def near_pairs(store: Store, ids: Sequence[str], least: float = COSINE) -> dict[str, list[str]]:
    """Returns, for models of an index, those of them that could be copies: of the same digest first, then the nearest.

    Args:
      store: the index.
      ids: the models, all others do not count.
      least: cosine of two vectors that are near.
    """
    if len(ids) < 2:
        return {}
    place = {name: number for number, name in enumerate(store.ids)}
    rows = np.array([place[name] for name in ids])
    digests = _by_digest(store, set(ids))
    nearest = _near(store.weights[rows], ids, least)
    found = {}
    for name, near in zip(ids, nearest, strict=True):
        same = [other for other in digests.get(name, ()) if other != name]
        found[name] = list(dict.fromkeys([*same, *(ids[number] for number in near if ids[number] != name)]))
    return {name: others for name, others in found.items() if others}


def _by_digest(store: Store, ids: set[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for model in store.catalog.models():
        if model.id in ids and model.weights_digest:
            groups.setdefault(model.weights_digest, []).append(model.id)
    return {name: own for own in groups.values() if len(own) > 1 for name in own}


def _near(vectors: Float32[np.ndarray, "n dim"], ids: Sequence[str], least: float) -> list[list[int]]:
    """Places of all vectors that are near to each, the nearest first."""
    index = NearestNeighbors.build(vectors, list(ids))
    found: list[list[int]] = [[] for _ in ids]
    asked, k = np.arange(len(ids)), min(FIRST, len(ids))
    while len(asked):
        places, cosines = index.search(vectors[asked], k)
        for number, own, near in zip(asked.tolist(), places, cosines >= least, strict=True):
            found[number] = own[near].tolist()
        asked = asked[cosines[:, -1] >= least] if k < len(ids) else asked[:0]
        k = min(2 * k, len(ids))
    return found
