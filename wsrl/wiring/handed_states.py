"""States that one recurrent layer hands on to another: names and shapes do not show it.

In sequence-to-sequence networks the last state of the encoder is the first one of the decoder (Sutskever et al., 2014):
of each of its layers, of one of its directions, of both side by side, or through a dense layer (Bahdanau et al., 2015).
"""

import re
from dataclasses import dataclass

from wsrl.wiring.dims import Dim, Value, in_blocks, tie
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

SECOND = re.compile(r"(^|[._])(dec|decod\w*|gen|generator|predict\w*|speller|answer\w*|tgt|trg|target)([._]|$)", re.I)


@dataclass(frozen=True)
class States:
    """What the layers of a recurrent module return, which is their state.

    Attributes:
      node: the module.
      layers: for each layer the value that it returns, of one direction or of two.
    """

    node: Node
    layers: tuple[Value, ...]


def tie_handed_states(states: list[States], env: Env) -> None:
    """Ties the states of decoders to those of encoders, and to what encoders' dense layers return, that are as long.

    Args:
      states: of all recurrent modules.
      env: the environment of the network.
    """
    seconds = [s for s in states if _is_second(s.node)]
    for second in seconds:
        hidden = [dim for layer in second.layers for dim in layer]
        for first in (s for s in states if not _is_second(s.node)):
            _tie(first, second, hidden)
        for entry in env.made:
            node = entry.env.node if entry.env is not None else None
            if entry.dense and node is not None and node.path and not _is_second(node) and len(entry.value) == 1:
                for dim in hidden:
                    if dim.size == entry.size:
                        tie(dim, entry.value[0])


def _is_second(node: Node) -> bool:
    """Whether a module decodes: by the names around it, or the beginning of its own."""
    return bool(SECOND.search(node.dotted) or re.match(r"dec", node.name, re.I))


def _tie(first: States, second: States, hidden: list[Dim]) -> None:
    """Ties layer by layer where both have as many; else all that are as long, once or twice."""
    own = [dim for layer in first.layers for dim in layer]
    if len(own) == len(hidden) and all(a.size == b.size for a, b in zip(own, hidden, strict=True)):
        for a, b in zip(own, hidden, strict=True):
            tie(a, b)
    elif {2 * dim.size for dim in own} & {dim.size for dim in hidden}:
        in_blocks([tuple(own), tuple(hidden)], [])
    elif {dim.size for dim in own} & {dim.size for dim in hidden}:
        in_blocks([tuple(dim for dim in (*own, *hidden) if dim.size == hidden[0].size)], [])
