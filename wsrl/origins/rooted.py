"""Which model of a family all others come from, and what that says of each pair: probabilities over roots.

A family is a tree of models with an edge between each and its nearest relative. Its root is not seen. If any model is
equally likely to be trained on next, a root has a likelihood in closed form, its rumor centrality (Shah and Zaman 2011,
"Rumors in a network: who's the culprit?"): one over the product of the sizes of all subtrees, seen from it. Evidence on
single edges multiplies in. With the root all directions are known, so the probability of a direction is that of all
roots that give it.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64

Edge = tuple[int, int]
DRAWN = 0.25  # of the distance to the model that most others may come from


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


def popularity(
    count: int, distances: Mapping[Edge, float], made: Collection[int] = ()
) -> Float64[np.ndarray, "models"]:
    """Returns of how many others each model may be the parent, which counts less the nearer these are to another model.

    Of a model whose nearest lies at a distance of 1, the parent lies at 1 / (1 - DRAWN) at most.

    Args:
      count: models of the family.
      distances: of pairs.
      made: models that were converted from another one, by what their weights show: hardly anyone goes on from these.
    """
    nearest, near = np.full(count, np.inf), np.zeros(count)
    for (first, second), distance in distances.items():
        nearest[[first, second]] = np.minimum(nearest[[first, second]], distance if distance > 0 else np.inf)
    for (first, second), distance in distances.items():
        for parent, child in ((first, second), (second, first)):
            beyond = (distance / nearest[child] - 1) * (1 - DRAWN) / DRAWN
            near[parent] += parent not in made and min(max(1 - beyond, 0.0), 1.0)
    return near


def drawn_to_hubs(count: int, distances: Mapping[Edge, float], made: Mapping[Edge, int]) -> dict[Edge, float]:
    """Returns distances in which a model is nearer to its neighbors the more of them it may be the parent of.

    Fine-tuned models move in part alike, whatever they are tuned for, so that one of them can lie nearer to another
    than the base of both. But most models come from few. What lies close to a hub, as a model that was trained on for a
    step, is near to all of its children too; the share of the children is squared so that the hub outweighs it.

    Args:
      count: models of the family.
      distances: of pairs.
      made: pairs of which one model was made from the other, by their weights -> that model, which is drawn to the
        nearest of these alone, of which those count as nearer that were not converted themselves.
    """
    near = popularity(count, distances, set(made.values()))
    share = np.square(near / max(near.max(initial=0), 1))
    source: dict[int, Edge] = {}
    originals = {edge for edge, model in made.items() if not {*edge} <= {*made.values()}}
    for edge in sorted(made, key=lambda edge: (distances[edge] * (1 - DRAWN * (edge in originals)), edge)):
        source.setdefault(made[edge], edge)
    nearest = set(source.values())
    converted = np.isin(np.arange(count), list(source))
    drawn = {
        edge: 1.0 if edge in nearest else 0.0 if converted[list(edge)].any() else max(share[list(edge)])
        for edge in distances
    }
    return {edge: distance * (1 - DRAWN * drawn[edge]) for edge, distance in distances.items()}


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
