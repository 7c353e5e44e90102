"""How large a network is, from its graph."""

import numpy as np
from jaxtyping import Float32

from wsrl.annotations import Graph
from wsrl.graph.tiles import OPS


def network_size(graph: Graph) -> Float32[np.ndarray, "2"]:
    """Logarithm of the number of weights of linear layers, and the number of layers on the longest path."""
    linear = graph.nodes["op"][graph.receivers] == OPS.index("linear")
    slots = (graph.edges["unit"] >= 0).sum(1)
    units = graph.nodes["mask"].sum(1)[graph.receivers]
    weights = (slots * units)[linear].sum()
    return np.array([np.log(max(weights, 1.0)), graph.nodes["level"].max()], np.float32)
