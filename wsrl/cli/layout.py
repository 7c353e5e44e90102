"""Arranges the layer graph for drawing: which boxes stand in which row, and which lines join them.

Weights do not tell the order of layers, so it is a guess: a layer comes after some layer that writes what it reads.
A group whose layers stand in adjacent rows is drawn from row to row; any other, such as a residual stream, is a rail:
a line down the side that layers read from and write to.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from wsrl.cli.fold import GroupRow, Row

BOXES = 4  # side by side
WINDOW = 128  # layers among which the next one is looked for


@dataclass(frozen=True, eq=False)
class Box:
    """A layer, or the layers at one place of repeated blocks.

    Attributes:
      reads, writes: groups, as indices into the folded groups; a group that it both reads and writes counts as written,
        unless it is a norm.
      loops: those both read and written.
    """

    row: Row
    reads: frozenset[int]
    writes: frozenset[int]
    loops: frozenset[int]

    @property
    def is_norm(self) -> bool:
        """Whether it only scales and shifts what it reads."""
        return "norm" in self.row.kind

    @cached_property
    def parent(self) -> str:
        """Path of the module that it is a part of; of repeated ones, the first."""
        return self.row.modules[0].name.rpartition(".")[0]

    @cached_property
    def scopes(self) -> frozenset[str]:
        """Its parent and the parent's parent, unless that is the whole network."""
        above = self.parent.rpartition(".")[0]
        return frozenset({self.parent, above} if above else {self.parent})


@dataclass(frozen=True)
class Net:
    """Lines of one group between two rows: from the boxes `sources` above to the boxes `targets` below.

    Attributes:
      gap: number of the row below.
      group: index into the folded groups.
      rail: whether the group's rail takes part.
    """

    gap: int
    group: int
    sources: tuple[Box, ...]
    targets: tuple[Box, ...]
    rail: bool = False


def arrange(rows: Iterable[Row], groups: Sequence[GroupRow]) -> list[list[Box]]:
    """Returns boxes in rows from the inputs to the outputs; tensors that say nothing of neurons have none."""
    index = {group: i for i, folded in enumerate(groups) for group in folded.ids}

    def box(row: Row) -> Box:
        reads = frozenset(index[s.group] for flow in row.flows for s in flow.inputs if s.group is not None)
        writes = frozenset(index[s.group] for flow in row.flows for s in flow.outputs if s.group is not None)
        return Box(row, reads if "norm" in row.kind else reads - writes, writes, reads & writes)

    boxes = [box(row) for row in rows if row.kind != "ignored"]
    arranged: list[list[Box]] = []
    for b in _in_order(boxes):
        last = arranged[-1][-1] if arranged else None
        if last and len(arranged[-1]) < BOXES and _side_by_side(last, b):
            arranged[-1].append(b)
        else:
            arranged.append([b])
    return arranged


def _side_by_side(one: Box, other: Box) -> bool:
    if one.is_norm or other.is_norm or one.row.blocks != other.row.blocks or one.reads != other.reads:
        return False
    if not one.reads:  # sources of one group, or boxes without any
        return one.writes == other.writes
    return one.parent == other.parent or one.writes == other.writes


class _Progress:
    """Which layers are placed, and what that says of the next one."""

    def __init__(self, boxes: Sequence[Box]):
        self.last: Box | None = None
        layers = [box for box in boxes if not box.is_norm]
        # still to be placed: readers of a group; layers of a module that write a group; attention layers that read it
        self.readers = Counter(group for box in layers for group in box.reads)
        self.siblings = Counter((box.parent, group) for box in layers for group in box.writes)
        self.attention = Counter(place for box in layers for place in _attention(box))
        self.norms: dict[str, dict[Box, None]] = defaultdict(dict)  # parent -> norms to be placed
        for box in boxes:
            if box.is_norm:
                self.norms[box.parent][box] = None
        self.inputs = {group for box in boxes for group in box.reads} - {group for _, group in self.siblings}
        self.written = set(self.inputs)
        parts = [box.parent.split(".") for box in boxes]
        self.nests = {".".join(part[:n]) for part in parts for n in range(len(part))}  # modules of modules

    def rank(self, box: Box) -> tuple[int, ...]:
        """The smallest goes first: what can be computed, sources, what goes on where the last was, outputs.

        Ties are left to the natural order of names.
        """
        last = self.last
        ends = not box.is_norm and not any(self.readers[group] for group in box.writes)
        leaves = last is not None and bool(last.row.blocks) and box.row.blocks != last.row.blocks
        return (
            not self.is_computable(box),
            self.stage(box),
            ends,
            leaves,
            last is None or not (_side_by_side(last, box) or self._normalises(box, last)),
            self._is_untimely(box),
            last is None or not _continues(box, last),
            not box.loops <= self.written,
        )

    def stage(self, box: Box) -> int:
        """0 for sources, 2 for boxes without any line, 1 for all others."""
        if not box.reads and not box.writes:
            return 2
        return 0 if box.reads <= self.inputs and box.writes and not box.loops else 1

    def is_computable(self, box: Box) -> bool:
        """Whether what it reads is there; a norm that belongs to layers waits for them."""
        waits = self._belongs(box) and any(self.siblings[box.parent, group] for group in box.writes)
        return not waits and box.reads <= self.written

    def _belongs(self, norm: Box) -> bool:
        """Whether a norm takes the outputs of the layers of its module, as a batch norm does, not those of blocks."""
        return norm.is_norm and ("batch" in norm.row.kind or norm.parent not in self.nests)

    def _normalises(self, norm: Box, layer: Box) -> bool:
        return self._belongs(norm) and norm.parent == layer.parent and bool(norm.reads & layer.writes)

    def _is_untimely(self, box: Box) -> bool:
        """Whether a norm follows a norm, or a layer precedes the norm or the attention of its block."""
        after_norm = self.last is not None and self.last.is_norm
        if box.is_norm:
            return after_norm
        if box.row.kind != "attention" and any(self.attention[s, group] for s in box.scopes for group in box.reads):
            return True
        norms = (norm for scope in box.scopes for norm in self.norms[scope] if norm.row.blocks == box.row.blocks)
        return not after_norm and any(norm.reads & box.reads and self.is_computable(norm) for norm in norms)

    def place(self, box: Box) -> None:
        """Takes note of the next layer."""
        self.last = box
        if box.is_norm:
            del self.norms[box.parent][box]
        else:
            self.written |= box.writes
            self.readers.subtract(box.reads)
            self.siblings.subtract((box.parent, group) for group in box.writes)
            self.attention.subtract(_attention(box))


def _continues(box: Box, layer: Box) -> bool:
    """Whether it is of the same module as a layer and reads that layer's outputs."""
    return not box.is_norm and box.parent == layer.parent and bool(layer.writes & (box.reads | box.loops))


def _attention(box: Box) -> Iterator[tuple[str, int]]:
    """Scopes and groups of which it is an attention layer that reads them."""
    if box.row.kind == "attention":
        yield from ((scope, group) for scope in box.scopes for group in box.reads)


def _in_order(boxes: Sequence[Box]) -> Iterator[Box]:
    """Layers in the order in which they are likely computed."""
    progress = _Progress(boxes)
    left = dict.fromkeys(sorted(boxes, key=progress.stage))
    while left:
        box = min(islice(left, WINDOW), key=progress.rank)
        if not progress.is_computable(box):
            box = min(left, key=progress.rank)  # the first of equals: natural order
        del left[box]
        progress.place(box)
        yield box


def find_nets(arranged: Sequence[Sequence[Box]]) -> list[Net]:
    """Returns the lines between rows, one net a gap and group."""
    attached: dict[int, list[int]] = defaultdict(list)  # group -> rows
    for i, row in enumerate(arranged):
        for group in sorted({g for box in row for g in box.reads | box.writes}):
            attached[group].append(i)
    nets = []
    for group, rows in attached.items():
        local = _is_local(group, rows, arranged)
        nets += _row_to_row(group, rows, arranged) if local else _along_a_rail(group, rows, arranged)
    # what only comes from above has its line above what only goes below, so that they do not run into each other
    return sorted(nets, key=lambda net: (net.gap, bool(net.targets), not net.sources, net.group))


def _readers(row: Sequence[Box], group: int) -> tuple[Box, ...]:
    return tuple(box for box in row if group in box.reads)


def _writers(row: Sequence[Box], group: int) -> tuple[Box, ...]:
    return tuple(box for box in row if group in box.writes)


def _is_local(group: int, rows: Sequence[int], arranged: Sequence[Sequence[Box]]) -> bool:
    """Whether every row of the group reads it from the row before, and nothing is read from further away."""
    if rows[-1] - rows[0] != len(rows) - 1:
        return False
    written = all(_writers(arranged[i], group) for i in rows[:-1])
    return written and all(set(_writers(arranged[i], group)) <= set(_readers(arranged[i], group)) for i in rows[1:])


def _row_to_row(group: int, rows: Sequence[int], arranged: Sequence[Sequence[Box]]) -> list[Net]:
    first, last = arranged[rows[0]], arranged[rows[-1]]
    nets = [Net(i, group, _writers(arranged[i - 1], group), _readers(arranged[i], group)) for i in rows[1:]]
    if _readers(first, group):
        nets.append(Net(rows[0], group, (), _readers(first, group)))
    if _writers(last, group):
        nets.append(Net(rows[-1] + 1, group, _writers(last, group), ()))
    return nets


def _along_a_rail(group: int, rows: Sequence[int], arranged: Sequence[Sequence[Box]]) -> list[Net]:
    """Nets with the rail, and those between a norm and its neighbours that the rail has no part in.

    A norm that follows a layer of the same module (`conv1`, `bn1`) takes that layer's output; any other norm reads the
    rail, and what comes after it reads the norm.
    """
    direct: list[Net] = []
    silent: set[tuple[Box, str]] = set()  # (box, "in" or "out"): joined to a neighbour instead of the rail
    for i in rows:
        for norm in (box for box in arranged[i] if box.is_norm and group in box.reads):
            above = _writers(arranged[i - 1], group) if i else ()
            above = tuple(b for b in above if b.parent == norm.parent and (b, "out") not in silent)
            below = _readers(arranged[i + 1], group) if i + 1 < len(arranged) else ()
            below = tuple(b for b in below if not b.is_norm)
            if above:
                direct.append(Net(i, group, above, (norm,)))
                silent |= {(norm, "in"), *((b, "out") for b in above)}
            elif below:
                direct.append(Net(i + 1, group, (norm,), below))
                silent |= {(norm, "out"), *((b, "in") for b in below)}
    nets = []
    for gap in sorted({*rows, *(i + 1 for i in rows)}):
        above = _writers(arranged[gap - 1], group) if gap else ()
        below = _readers(arranged[gap], group) if gap < len(arranged) else ()
        sources = tuple(b for b in above if (b, "out") not in silent)
        targets = tuple(b for b in below if (b, "in") not in silent)
        if sources or targets:
            nets.append(Net(gap, group, sources, targets, rail=True))
    return direct + nets
