"""A network as a graph with one node a neuron and one edge a weight, as in earlier graph encoders of weights.

The plain form (Lim et al. 2024, Kofinas et al. 2024): the baseline reads it, and tests check the tiles against it.
"""

from math import prod
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jraph
import numpy as np

from wsrl.annotations import Leaf
from wsrl.program.network import Network


@flax.struct.dataclass
class Neurons:
    """Nodes of a graph of N neurons.

    Attributes:
      bias: [N] float32.
      layer: [N] int32.
      unit: [N] int32, place in the layer.
      depth: [N] float32, from 0 at the inputs to 1 at the outputs.
      output: [N] int32, 1 at output neurons.
    """

    bias: Leaf
    layer: Leaf
    unit: Leaf
    depth: Leaf
    output: Leaf


@flax.struct.dataclass
class Weights:
    """Edges of a graph of E weights.

    Attributes:
      weight: [E] float32.
      tap: [E] int32, row-major place in the kernel, 0 if it has one.
      taps: [E] int32, of the kernel.
    """

    weight: Leaf
    tap: Leaf
    taps: Leaf


@runtime_checkable
class NeuronGraph(Protocol):
    """What a `jraph.GraphsTuple` of neurons holds; of one network, n_node = [N] and n_edge = [E]."""

    nodes: Any  # Neurons
    edges: Any  # Weights
    senders: Leaf
    receivers: Leaf
    n_node: Leaf
    n_edge: Leaf


def neuron_graph(network: Network) -> NeuronGraph:
    """Builds the graph; links without weights become edges of weight one, one for each unit and tap.

    Returns:
      A GraphsTuple of NumPy arrays.
    """
    start = np.cumsum([0] + [layer.layer.units for layer in network.layers])
    last = len(network.layers) - 1
    index = np.repeat(np.arange(last + 1), np.diff(start))
    nodes = Neurons(
        bias=np.concatenate([layer.bias for layer in network.layers]).astype(np.float32),
        layer=index.astype(np.int32),
        unit=(np.arange(start[-1]) - start[index]).astype(np.int32),
        depth=(index / max(last, 1)).astype(np.float32),
        output=(index == last).astype(np.int32),
    )
    weights, taps, kernels, senders, receivers = [], [], [], [], []
    for i, layer in enumerate(network.layers):
        for link, weight in zip(layer.layer.links, layer.weights, strict=True):
            if weight is None:
                tap, unit = (a.ravel() for a in np.indices((prod(link.kernel), layer.layer.units)))
                source, target, value = unit, unit, np.ones(len(unit))
            else:
                tap, source, target = (a.ravel() for a in np.indices(weight.shape))
                value = weight.ravel()
            weights.append(value)
            taps.append(tap)
            kernels.append(np.full(len(tap), prod(link.kernel)))
            senders.append(source + start[link.source])
            receivers.append(target + start[i])
    graphs_tuple: Any = jraph.GraphsTuple  # whose annotations know arrays of JAX alone
    return graphs_tuple(
        nodes=nodes,
        edges=Weights(
            weight=np.concatenate(weights).astype(np.float32),
            tap=np.concatenate(taps).astype(np.int32),
            taps=np.concatenate(kernels).astype(np.int32),
        ),
        senders=np.concatenate(senders).astype(np.int32),
        receivers=np.concatenate(receivers).astype(np.int32),
        globals=None,
        n_node=np.array([start[-1]], np.int32),
        n_edge=np.array([sum(len(w) for w in weights)], np.int32),
    )
