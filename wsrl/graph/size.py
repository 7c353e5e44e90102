"""How large a network is, from its graph."""

import numpy as np
from jaxtyping import Float32

from wsrl.graph.tiles import OPS, TileGraph

SIZES = 3  # numbers that tell how large a network is


def network_size(graph: TileGraph) -> Float32[np.ndarray, "3"]:
    """Logarithm of the number of weights of linear layers, the number of layers on the longest path, and the logarithm
    of the number of features that the output neurons read.
    """
    linear = graph.nodes.op[graph.receivers] == OPS.index("linear")
    slots = (graph.edges.unit >= 0).sum(1)
    units = graph.nodes.mask.sum(1)[graph.receivers]
    weights = (slots * units)[linear].sum()
    first_outputs = (graph.nodes.output == 1) & (graph.nodes.index == 0)  # all tiles of them read the same
    features = slots[first_outputs[graph.receivers]].sum()
    return np.array([np.log(max(weights, 1.0)), graph.nodes.level.max(), np.log(max(features, 1.0))], np.float32)
