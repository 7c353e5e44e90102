"""The order in which a sweep visits the tensors of a claim, and which entries of each are which neurons.

All of it follows from names and shapes, so models of one architecture share a schedule.
"""

import re
from collections.abc import Set
from dataclasses import dataclass, replace
from math import prod

from wsrl.canonical.norms import find_folds
from wsrl.canonical.products import Part, parts_of
from wsrl.wiring.wiring import Segment, Wiring


@dataclass(frozen=True)
class Direction:
    """Axes of a tensor that are read and written, and what is added to what it writes."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    bias: str | None


@dataclass(frozen=True)
class Side:
    """The axes that a tensor is read along, or those that it is written along.

    Attributes:
      axes: in the order in which they are flattened; axes without neurons come last.
      lengths: of the axes.
      parts: segments of each axis with neurons, or, where there is none, one that covers the first axis.
      taps: lengths of the axes that `parts` leave out, such as those of a kernel; they are inner entries of the last
        part.
    """

    axes: tuple[int, ...]
    lengths: tuple[int, ...]
    parts: tuple[tuple[Segment, ...], ...]
    taps: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.lengths)

    @property
    def groups(self) -> set[str]:
        """Groups that have neurons here."""
        return {s.group for part in self.parts for s in part if s.group is not None}


@dataclass(frozen=True)
class Span:
    """Entries start to stop of what a tensor writes, or reads: [heads, repeat, dim]."""

    tensor: str
    start: int
    stop: int
    heads: int
    repeat: int
    dim: int


@dataclass(frozen=True)
class Link:
    """A product between two tensors: entries that one reads are those that the other has written.

    Attributes:
      reader, writer: of the values.
      key, query: of the scores that weigh them, both written; None where the claim has no such product.
    """

    reader: Span
    writer: Span
    key: Span | None = None
    query: Span | None = None

    @property
    def sources(self) -> set[str]:
        """Tensors that must have been visited before."""
        return {span.tensor for span in (self.writer, self.key, self.query) if span is not None}


@dataclass(frozen=True)
class Visit:
    """One tensor with two or more axes.

    Attributes:
      tensor: its name.
      reads, writes: its sides.
      biases: tensors added to what it writes.
      links: what it reads from other tensors rather than from groups.
      opaque: entries of `writes` that products take, (start, stop) each: any rotation of a head's entries is one form
        of the same network.
      gated: every unit reads its own state, as in a depthwise convolution.
      output: whether nothing reads what it writes.
      depth: 0 for the first visit, 1 for the last.
    """

    tensor: str
    reads: Side
    writes: Side
    biases: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    opaque: tuple[tuple[int, int], ...] = ()
    gated: bool = False
    output: bool = False
    depth: float = 0.0


@dataclass(frozen=True)
class Vector:
    """A tensor with one axis that is no bias: a gain or a shift of a norm, say. `depth` is that of the visit before."""

    tensor: str
    part: tuple[Segment, ...]
    depth: float


@dataclass(frozen=True)
class Schedule:
    """Visits in order, vectors beside them.

    Attributes:
      normed: groups that are normed before they are read, residual streams as a rule.
    """

    claim: Wiring
    visits: tuple[Visit, ...]
    vectors: tuple[Vector, ...]
    normed: frozenset[str]


def make_schedule(claim: Wiring) -> Schedule:
    """Orders the tensors of a claim so that neurons are written before they are read, as far as names can tell."""
    folds = {fold.weight: fold for fold in find_folds(claim)}
    folded = {name for fold in folds.values() for name in fold.fields.values()}
    found = {
        name: Direction(tuple(a for a in range(len(claim.shapes[name])) if a not in axes), axes, bias)
        for operation in claim.operations
        for name, axes, bias in operation.weights()
        if len(axes) < len(claim.shapes[name]) and prod(claim.shapes[name])
    }
    links, opaque = _links(claim, found)
    visits = []
    for name, direction in found.items():
        shifts = [folds[name].fields["shift"]] if name in folds and "shift" in folds[name].fields else []
        reads, writes = (_side(claim, name, axes) for axes in (direction.reads, direction.writes))
        visits.append(
            Visit(
                name,
                reads,
                writes,
                tuple(([direction.bias] if direction.bias else []) + shifts),
                tuple(link for link in links if link.reader.tensor == name),
                tuple((s.start, s.stop) for s in opaque if s.tensor == name),
                gated=len(claim.shapes[name]) > 2 and not reads.groups and claim.shapes[name][direction.reads[0]] == 1,
            )
        )
    visits = _ordered(visits)
    used = {bias for visit in visits for bias in visit.biases} | folded
    depths = {path_of(visit.tensor): visit.depth for visit in visits}
    vectors = []
    for name, shape in claim.shapes.items():
        if len(shape) == 1 and shape[0] and name not in used and name not in claim.ignored:
            axis = claim.axes[name][0] or (Segment(None, shape[0]),)
            vectors.append(Vector(name, axis, _nearest(depths, path_of(name))))
    normed = {s.group for v in vectors for s in v.part if s.group is not None and path_of(v.tensor) not in depths}
    return Schedule(claim, tuple(visits), tuple(vectors), frozenset(normed))


def _side(claim: Wiring, name: str, axes: tuple[int, ...]) -> Side:
    """Puts the axes with neurons first; the other axes are taps."""
    shape = claim.shapes[name]
    grouped = [a for a in axes if claim.axes[name][a] is not None]
    order = (*grouped, *(a for a in axes if a not in grouped))
    parts = tuple(claim.axes[name][a] or () for a in grouped)
    if not parts:
        order = axes
        parts = ((Segment(None, shape[axes[0]]),),)
    lengths = tuple(shape[a] for a in order)
    return Side(order, lengths, parts, lengths[len(parts) :])


def _span(part: Part, directions_of: dict[str, Direction]) -> tuple[Span, bool] | None:
    """Entries of the side that a part of a product lies on, and whether that is written; None if they lie elsewhere."""
    along, last = part.along, part.last
    direction = directions_of.get(along.tensor)
    if direction is None:
        return None
    for axes, written in ((direction.writes, True), (direction.reads, False)):
        others = [a for a in axes if not along.axis <= a < last]
        if along.axis in axes and all(part.shape[a] == 1 for a in others):
            span = Span(along.tensor, along.start, along.stop, -1, part.repeat, part.dim)
            return replace(span, heads=(along.stop - along.start) // part.head), written
    return None


def _links(claim: Wiring, found: dict[str, Direction]) -> tuple[list[Link], list[Span]]:
    """Returns the links that products make, and what else of a product is written."""
    values, scores = [], []
    for product in claim.products:
        left, right = (_span(parts[0], found) for parts in parts_of(product, claim.shapes))
        if left is None or right is None:
            continue
        if left[1] and right[1]:
            scores.append((left[0], right[0]))
        elif left[1] or right[1]:
            values.append((left[0], right[0]) if left[1] else (right[0], left[0]))
    by_parent: dict[tuple, list[tuple[Span, Span]]] = {}
    for key, query in scores:
        by_parent.setdefault((_parent(key.tensor), key.heads, query.repeat), []).append((key, query))
    links = []
    for writer, reader in values:
        beside = by_parent.get((_parent(writer.tensor), writer.heads, reader.repeat), [])
        key, query = beside[0] if len(beside) == 1 else (None, None)
        links.append(Link(reader, writer, key, query))
    return links, [span for pair in scores for span in pair] + [writer for writer, _ in values]


def path_of(tensor: str) -> tuple[str, ...]:
    """Names of a tensor's path without the last one, and without the collections of Flax."""
    return tuple(p for p in re.split(r"[./]", tensor)[:-1] if p not in ("params", "batch_stats"))


def _parent(tensor: str) -> tuple[str, ...]:
    return path_of(tensor)[:-1]


def _block(tensor: str) -> tuple[str, ...]:
    """The innermost numbered part of the network that holds a module."""
    parents = _parent(tensor)
    numbered = [i for i, name in enumerate(parents) if any(c.isdigit() for c in name)]
    return parents[: numbered[-1] + 1] if numbered else ()


def _nearest(depths: dict[tuple[str, ...], float], path: tuple[str, ...]) -> float:
    """Depth of the last visit under the longest common path."""
    for length in range(len(path), -1, -1):
        near = [depth for other, depth in depths.items() if other[:length] == path[:length]]
        if near:
            return max(near)
    return 0.0


def _ordered(visits: list[Visit]) -> list[Visit]:
    """Orders visits and gives them their depths.

    First come those that read nothing that is written, embeddings as a rule; then, one by one, the first in the
    natural order of names whose groups have been written and whose links have been visited, unless another one that can
    be visited too writes a group which it reads and which only their block writes. What nothing reads comes last. Where
    nothing can be visited, as in a cycle, the first one left goes.
    """
    read = {group for visit in visits for group in visit.reads.groups}
    linked = {tensor for visit in visits for link in visit.links for tensor in link.sources}
    inner = [v for v in visits if v.tensor in linked or _gives(v) & read]
    names = {v.tensor for v in inner}
    outputs = [replace(v, output=True) for v in visits if v.tensor not in names]
    writers: dict[str, set[tuple[str, ...]]] = {}  # group -> blocks
    for visit in visits:
        for group in _gives(visit):
            writers.setdefault(group, set()).add(_block(visit.tensor))
    inner.sort(key=lambda v: bool(v.links or v.gated or v.reads.groups & writers.keys()))
    needs = [_needs(v, writers.keys()) for v in inner]
    missing = [set(n) for n in needs]
    waiting: dict[tuple[str, str], list[int]] = {}
    for i, keys in enumerate(missing):
        for key in keys:
            waiting.setdefault(key, []).append(i)
    ready = [i for i, keys in enumerate(missing) if not keys]
    left = dict.fromkeys(range(len(inner)))

    def blocked(i: int) -> bool:
        local = {g for g in inner[i].reads.groups & writers.keys() if writers[g] == {_block(inner[i].tensor)}}
        return any(j != i and _gives(inner[j]) & local for j in ready)

    order = []
    while left:
        queue = sorted(ready) or [next(iter(left))]
        chosen = next((i for i in queue if not blocked(i)), queue[0])
        ready = [i for i in ready if i != chosen]
        del left[chosen]
        order.append(inner[chosen])
        for key in (("tensor", inner[chosen].tensor), *(("group", g) for g in _gives(inner[chosen]))):
            for i in waiting.pop(key, ()):
                missing[i].discard(key)
                if not missing[i] and i in left:
                    ready.append(i)
    order += outputs
    return [replace(v, depth=i / max(len(order) - 1, 1)) for i, v in enumerate(order)]


def _gives(visit: Visit) -> set[str]:
    """Groups that a visit writes; what products take is not written to a group."""
    taken = sum(stop - start for start, stop in visit.opaque)
    return visit.writes.groups if taken < visit.writes.size else set()


def _needs(visit: Visit, written: Set[str]) -> set[tuple[str, str]]:
    """What must be there before a visit."""
    covered = sum(link.reader.stop - link.reader.start for link in visit.links)
    groups = visit.reads.groups & written if covered < visit.reads.size else set()
    if visit.reads.groups == visit.writes.groups:  # a recurrence
        groups = set()
    if visit.gated:
        groups = visit.writes.groups
    tensors = {tensor for link in visit.links for tensor in link.sources}
    return {("tensor", t) for t in tensors} | {("group", g) for g in groups}
