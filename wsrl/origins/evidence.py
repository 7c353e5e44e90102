"""Evidence for which of two relatives was made from the other."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wsrl.checkpoint import CheckpointError
from wsrl.comparison.relation import Kind
from wsrl.origins.relatives import Node, Relatives
from wsrl.origins.rooted import Edge
from wsrl.readers.declared import Declared, declared_bases, names_model

# Log odds. A declaration can be wrong, as it is copied along with a configuration; weights can be misread.
DECLARED, MADE, HEADED = np.log(1000), np.log(50), np.log(10)


class Evidence(NamedTuple):
    """That the model of the lower number is the parent (`log_odds` > 0), or the other (< 0), and why."""

    log_odds: float
    text: str
    declared: bool = False


def edge_evidence(
    relatives: Relatives, numbers: Sequence[int], edges: Mapping[Edge, float]
) -> dict[Edge, tuple[Evidence, ...]]:
    """Returns what is known of the direction of each pair of relatives."""
    declared = {number: _declared(relatives.nodes[number]) for number in numbers}
    found = {}
    for first, second in edges:
        own = [
            *_declarations(relatives, declared, first, second, 1),
            *_declarations(relatives, declared, second, first, -1),
            *_of_weights(relatives, first, second),
        ]
        if own:
            found[first, second] = tuple(own)
    return found


def bases_in_index(relatives: Relatives, number: int) -> list[int]:
    """Returns the models that a model declares as its base."""
    own = relatives.nodes[number]
    names = [base.name for base in _declared(own)]
    return [
        other
        for other, node in enumerate(relatives.nodes if names else ())
        if other != number and any(names_model(name, node.path, own.path) for name in names)
    ]


def absent_bases(relatives: Relatives, node: Node) -> tuple[str, ...]:
    """Returns the base models that a model declares and that are not in the index."""
    names = dict.fromkeys(base.name for base in _declared(node))
    known = [other.path for other in relatives.nodes]
    return tuple(name for name in names if not any(names_model(name, path, node.path) for path in known))


def _declared(node: Node) -> list[Declared]:
    try:
        return declared_bases(node.open().metadata, node.path)
    except CheckpointError:
        return []


def _declarations(
    relatives: Relatives, declared: Mapping[int, list[Declared]], parent: int, child: int, sign: int
) -> Iterator[Evidence]:
    own, path = relatives.nodes[child].path, relatives.nodes[parent].path
    for base in declared[child]:
        if names_model(base.name, path, own):
            yield Evidence(sign * DECLARED, f"{relatives.nodes[child].id} names it in {base.where}", True)


def _of_weights(relatives: Relatives, first: int, second: int) -> Iterator[Evidence]:
    relation = relatives.relation(first, second)
    if relation.derived is not None:
        sign = 1 if relation.derived == "b" else -1
        how = {
            Kind.SAME_PRECISION: "the other is rounded from it",
            Kind.SAME_WEIGHTS: "the other is rounded from it",
            Kind.PRUNED: "the other is pruned from it",
            Kind.EXTENDED: "the other has parts that were added to it",
        }.get(relation.kind, "the weights of the other were made from its own")
        yield Evidence(sign * (HEADED if relation.kind == Kind.EXTENDED else MADE), how)
