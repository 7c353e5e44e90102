"""The parents of models: families in an index, the tree of each, and directions where there is evidence for them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsrl.comparison.relation import WORDS, Kind
from wsrl.errors import InputError
from wsrl.origins.evidence import Evidence, absent_bases, bases_in_index, edge_evidence
from wsrl.origins.proof import Compare
from wsrl.origins.relatives import Node, Relatives
from wsrl.origins.rooted import (
    Edge,
    drawn_to_hubs,
    first_is_parent,
    popularity,
    root_probabilities,
    sides,
    spanning_tree,
)
from wsrl.search.index import Index
from wsrl.search.near_groups import FAMILY

CLAIMED = 0.85  # probability from which on a model is named as the parent
BETWEEN = 0.25  # of the squared distance to a child: how far a parent may have moved on since the child left it
HUBS = 2  # models of a family with which all others are compared
MOST = 200  # models of the family of one that is asked about


@dataclass(frozen=True)
class Link:
    """Two models that are nearest to each other in their family.

    Attributes:
      parent, child: ids; which is which is told only if `directed`.
      directed: whether there is evidence enough that the first is the parent of the second.
      probability: that the first comes before the second, if one of them comes from the other.
      kind: what they are to each other.
      distance: root mean square of the relative changes of the tensors that they share, of at most 1 each.
      evidence: what the direction rests on, a sentence each.
    """

    parent: str
    child: str
    directed: bool
    probability: float
    kind: Kind
    distance: float
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Related models.

    Attributes:
      models: ids; copies of the same bytes stand behind the first one, in `copies`.
      root: id of the model that most likely came first.
      links: the edges of a tree over the models, seen from the root.
      copies: id -> ids of models of the same bytes.
      absent: id -> base models that it declares and that the index does not hold.
    """

    models: tuple[str, ...]
    root: str
    links: tuple[Link, ...]
    copies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    absent: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def parent(self, name: str) -> Link | None:
        """The link to a model's parent, if that is known."""
        return next((link for link in self.links if link.directed and link.child == name), None)


@dataclass(frozen=True)
class Lineage:
    """Families of an index, the largest first, and models whose files could not be compared."""

    families: tuple[Family, ...]
    problems: tuple[InputError, ...]


def find_lineage(
    directory: str | Path, query: str | None = None, compare: Compare | None = None, progress: bool = False
) -> Lineage:
    """Finds the families of an index and the parents of models, by their weights and by what their files declare.

    Each model is compared with the nearest ones. Related models make up a family; its tree has the edges of least
    total distance. A direction is told only if its probability is high (see `wsrl.origins.rooted`) and, unless the
    files tell it, if the parent lies where its children left: fine-tuned models move in directions of their own, so
    squared distances add up along a tree, and two models that come from a third one, which is not there, are told from
    parent and child.

    Args:
      directory: of the index.
      query: a model of the index, or a file: its family alone is looked at.
      compare: gives the relation of two checkpoints; by default `wsrl.comparison.compare.compare`.
      progress: show a progress line on stderr.

    Raises:
      InputError: there is no index, it is damaged, or the query cannot be used.
    """
    relatives = Relatives(Path(directory), query, compare)
    found = [_family(relatives, numbers, edges) for numbers, edges in _components(relatives, progress)]
    found.sort(key=lambda family: (-len(family.models), family.root))
    return Lineage(tuple(found), tuple(relatives.problems))


def _components(relatives: Relatives, progress: bool) -> Iterator[tuple[list[int], dict[Edge, float]]]:
    """Yields the models of each family and the distances of those that were compared."""
    asked = relatives.asked
    waiting = list(range(len(relatives.nodes))) if asked is None else [asked]
    edges: dict[Edge, float] = {}
    around: dict[int, list[int]] = {number: [] for number in waiting}
    line = tqdm(total=len(waiting), desc="comparing", unit="model", disable=None if progress else True, mininterval=1.0)
    with line:
        for own in waiting:  # of one that is asked about, relatives are added while there are any
            line.update(asked is None)
            near = {*relatives.near([own])[0], *bases_in_index(relatives, own)}
            for other in sorted(near) if len(around) <= MOST or asked is None else ():
                if relatives.relation(own, other).related:
                    edges[min(own, other), max(own, other)] = relatives.distance(own, other)
                    if other not in around:
                        around[other] = []
                        waiting.append(other)
                    around[own].append(other)
                    around[other].append(own)
    seen: set[int] = set()
    for start in waiting:
        if start in seen:
            continue
        family = [start]
        seen.add(start)
        for own in family:
            more = [other for other in dict.fromkeys(around[own]) if other not in seen]
            seen.update(more)
            family += more
        members = set(family)
        own_edges = {edge: distance for edge, distance in edges.items() if edge[0] in members}
        yield family, own_edges | _to_hubs(relatives, family, own_edges)


def _to_hubs(relatives: Relatives, family: Sequence[int], edges: Mapping[Edge, float]) -> dict[Edge, float]:
    """Distances of all models of a family to those that most may come from: these need not be among their nearest."""
    place = {number: i for i, number in enumerate(family)}
    derived = [(edge, relatives.relation(*edge).derived) for edge in edges]
    made = {place[edge["ab".index(side)]] for edge, side in derived if side is not None}
    near = popularity(len(family), {(place[a], place[b]): distance for (a, b), distance in edges.items()}, made)
    found = {}
    for hub in np.argsort(-near, kind="stable")[:HUBS].tolist():
        for own in family:
            edge = min(own, family[hub]), max(own, family[hub])
            if own != family[hub] and edge not in edges and relatives.relation(*edge).related:
                found[edge] = relatives.distance(*edge)
    return found


def _family(relatives: Relatives, numbers: Sequence[int], distances: dict[Edge, float]) -> Family:
    place = {number: i for i, number in enumerate(numbers)}
    nodes = [relatives.nodes[number] for number in numbers]
    told = edge_evidence(relatives, numbers, distances)
    own = {(place[a], place[b]): distance for (a, b), distance in distances.items()}
    declared = {(place[a], place[b]) for (a, b), found in told.items() if any(one.declared for one in found)}
    drawn = drawn_to_hubs(len(nodes), own, _made(told, place))
    edges = spanning_tree(len(nodes), {edge: -1.0 if edge in declared else value for edge, value in drawn.items()})
    evidence = [told.get((numbers[a], numbers[b]), ()) for a, b in edges]
    log_odds = np.array([sum(one.log_odds for one in found) for found in evidence], float)
    on_side = sides(len(nodes), edges)
    roots = root_probabilities(on_side, log_odds)
    first = first_is_parent(on_side, roots)
    root = int(np.argmax(roots))
    links = [
        _link(relatives, numbers, edges, number, own, on_side, evidence[number], float(first[number]), root)
        for number in range(len(edges))
    ]
    return Family(
        tuple(node.id for node in nodes),
        nodes[root].id,
        tuple(links),
        {node.id: node.copies for node in nodes if node.copies},
        _absent(relatives, nodes),
    )


def _made(told: Mapping[Edge, Sequence[Evidence]], place: Mapping[int, int]) -> dict[Edge, int]:
    """Pairs of which one model was made from the other, by their weights, with that model."""
    made = {}
    for (first, second), found in told.items():
        odds = sum(one.log_odds for one in found if not one.declared)
        if odds:
            made[place[first], place[second]] = place[second if odds > 0 else first]
    return made


def _link(
    relatives: Relatives,
    numbers: Sequence[int],
    edges: Sequence[Edge],
    number: int,
    distances: dict[Edge, float],
    on_side: np.ndarray,
    evidence: Sequence[Evidence],
    probability: float,
    root: int,
) -> Link:
    """The link of an edge: seen from its more likely parent, or from the root where that is not known."""
    first, second = edges[number]
    turned = not on_side[number][root]
    sure = max(probability, 1 - probability) >= CLAIMED
    parent, child = (second, first) if turned else (first, second)
    sign = -1 if turned else 1
    telling = tuple(one.text for one in evidence if one.log_odds * sign > 0)
    likely = 1 - probability if turned else probability
    sure = sure and likely >= CLAIMED
    if sure and not telling:
        children = _children_that_left(relatives, numbers, edges, parent, child)
        sure = children > 1
        telling = (f"{children} models left from where it lies",) if sure else ()
    relation = relatives.relation(numbers[first], numbers[second])
    ids = [relatives.nodes[numbers[own]].id for own in (parent, child)]
    return Link(ids[0], ids[1], sure, likely, relation.kind, distances[first, second], telling)


def _children_that_left(
    relatives: Relatives,
    numbers: Sequence[int],
    edges: Sequence[Edge],
    parent: int,
    child: int,
) -> int:
    """How many neighbors of a model, the child among them, left from where it lies; 0 if the child did not.

    Models of equal weights did not leave it: nothing tells which of them is the copy.
    """

    def distance(a: int, b: int) -> float:
        return relatives.distance(numbers[a], numbers[b])

    own = distance(parent, child) ** 2
    others = [b if a == parent else a for a, b in edges if parent in (a, b) and child not in (a, b)]
    others = [other for other in others if distance(parent, other) > 0]
    if not own:
        return 0
    moved = [(own + distance(parent, o) ** 2 - distance(child, o) ** 2) / 2 for o in others]
    count = sum(abs(one) <= BETWEEN * own for one in moved)
    return count + 1 if 2 * count >= len(others) and count else 0


def _absent(relatives: Relatives, nodes: Sequence[Node]) -> dict[str, tuple[str, ...]]:
    found = {node.id: absent_bases(relatives, node) for node in nodes}
    return {name: bases for name, bases in found.items() if bases}


def note_families(directory: str | Path, lineage: Lineage) -> int:
    """Notes the family of each model in the index under the key `lineage`, so that searches can group by it.

    The note is the id of the model at the root; copies have it too. A note of a former call is replaced.

    Returns:
      How many models were noted.

    Raises:
      InputError: the index cannot be used, or another process writes to it.
    """
    index = Index.open(directory)
    known = set(index.ids)
    notes = {
        name: {FAMILY: family.root}
        for family in lineage.families
        for model in family.models
        for name in (model, *family.copies.get(model, ()))
        if name in known
    }
    index.annotate_all(notes)
    return len(notes)


def tree_lines(family: Family) -> list[str]:
    """Returns a family as a tree of text; a question mark stands where the direction is not known."""
    below: dict[str, list[Link]] = {name: [] for name in family.models}
    for link in family.links:
        below[link.parent].append(link)

    def lines(name: str, indent: str) -> Iterator[str]:
        for number, link in enumerate(below[name]):
            last = number == len(below[name]) - 1
            mark = "" if link.directed else " ?"
            yield f"{indent}{'└─' if last else '├─'}{mark} {_named(family, link.child)}  ({WORDS[link.kind]})"
            yield from lines(link.child, indent + ("   " if last else "│  "))

    return [_named(family, family.root), *lines(family.root, "")]


def _named(family: Family, name: str) -> str:
    copies = family.copies.get(name, ())
    absent = "".join(f"; declares {base}, which is not in the index" for base in family.absent.get(name, ()))
    return name + (f" = {', '.join(copies)}" if copies else "") + absent
