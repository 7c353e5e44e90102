"""Which model of a family all others come from, and what that says of each pair: probabilities over roots.

A family is a tree of models with an edge between each and its nearest relative. Its root is not seen. If any model is
equally likely to be trained on next, a root has a likelihood in closed form, its rumor centrality (Shah and Zaman 2011,
"Rumors in a network: who's the culprit?"): one over the product of the sizes of all subtrees, seen from it. Evidence on
single edges multiplies in. With the root all directions are known, so the probability of a direction is that of all
roots that give it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64

Edge = tuple[int, int]


def spanning_tree(count: int, distances: Mapping[Edge, float]) -> list[Edge]:
    """Returns the edges of least total length that join all models which any edges join (Kruskal 1956)."""
    stands = list(range(count))

    def root(node: int) -> int:
        while stands[node] != node:
            stands[node] = stands[stands[node]]
            node = stands[node]
        return node

    chosen = []
    for edge in sorted(distances, key=lambda edge: (distances[edge], edge)):
        first, second = map(root, edge)
        if first != second:
            stands[first] = second
            chosen.append(edge)
    return chosen


def sides(count: int, edges: Sequence[Edge]) -> Bool[np.ndarray, "edges models"]:
    """Returns, for each edge of a tree, which models lie on the side of its first end."""
    around: list[list[int]] = [[] for _ in range(count)]
    for first, second in edges:
        around[first].append(second)
        around[second].append(first)
    found = np.zeros((len(edges), count), bool)
    for number, (first, second) in enumerate(edges):
        found[number, first] = True
        waiting = [first]
        while waiting:
            node = waiting.pop()
            for other in around[node]:
                if not found[number, other] and {node, other} != {first, second}:
                    found[number, other] = True
                    waiting.append(other)
    return found


def root_probabilities(
    on_side: Bool[np.ndarray, "edges models"], log_odds: Float64[np.ndarray, "edges"]
) -> Float64[np.ndarray, "models"]:
    """Returns the probability of each model of a tree to be the one that the others come from.

    Args:
      on_side: see `sides`.
      log_odds: of each edge, that its first end is the parent; 0 where nothing is known.
    """
    first_sizes = on_side.sum(1)
    sizes = np.where(on_side, on_side.shape[1] - first_sizes[:, None], first_sizes[:, None])  # below, seen from a root
    scores = -np.log(np.maximum(sizes, 1)).sum(0) + (np.where(on_side, 1, -1) * log_odds[:, None] / 2).sum(0)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def first_is_parent(
    on_side: Bool[np.ndarray, "edges models"], roots: Float64[np.ndarray, "models"]
) -> Float64[np.ndarray, "edges"]:
    """Returns the probability of each edge that its first end is the parent."""
    return on_side @ roots
