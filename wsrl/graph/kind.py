"""What kind of network a graph is, whatever its width and depth."""

import numpy as np

from wsrl.annotations import Graph
from wsrl.graph.tiles import OPS


def network_kind(graph: Graph) -> str:
    """The features of an architecture that a graph shows, as words; networks of one family have the same.

    norm, attention: it has such layers; map, rows: its neurons have maps of two dimensions or one; pooled: windows or
    maps are; skip: links leave out a layer, as residual connections do; steps: several levels read the input;
    dense: none of these.
    """
    nodes = graph.nodes
    is_input = nodes["op"] == OPS.index("input")
    height, width = nodes["grid"][~is_input].max(0)
    span = nodes["level"][graph.receivers] - nodes["level"][graph.senders]
    readers = nodes["level"][graph.receivers][is_input[graph.senders]]
    shown = {
        "norm": (nodes["op"] == OPS.index("norm")).any(),
        "attention": (nodes["op"] == OPS.index("attention")).any(),
        "map": width > 1,
        "rows": width == 1 and height > 1,
        "pooled": ((nodes["pool"] == 1) | np.isin(nodes["op"], (OPS.index("max"), OPS.index("mean")))).any(),
        "skip": (span > 1).any(),
        "steps": len(np.unique(readers)) > 1,
    }
    return " ".join(word for word, there in shown.items() if there) or "dense"


def why_not_embeddable(graph: Graph) -> str | None:
    """Why a trained encoder's vector of a network would tell it from no other of its kind; None where it does.

    The read-out knows outputs by the differences between them, so that all networks with a single one get one vector.
    """
    outputs = int(graph.nodes["mask"][graph.nodes["output"] == 1].sum())
    return "one output: what a trained encoder compares is how outputs differ" if outputs < 2 else None
