"""Arranges the layer graph for drawing: which boxes stand in which row, and which lines join them.

Operations come in the order in which data flows; those side by side read the same.
A group whose layers stand in adjacent rows is drawn from row to row; any other, such as a residual stream, is a rail:
a line down the side that layers read from and write to.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from wsrl.drawing.fold import GroupRow, Row

BOXES = 4  # side by side


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
        return "norm" in self.row.type

    @cached_property
    def parent(self) -> str:
        """Path of the module that it is a part of; of repeated ones, the first."""
        return self.row.operations[0].name.rpartition(".")[0]


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
        reads = frozenset(index[s.group] for side in row.sides for s in side.reads if s.group is not None)
        writes = frozenset(index[s.group] for side in row.sides for s in side.writes if s.group is not None)
        return Box(row, reads if "norm" in row.type else reads - writes, writes, reads & writes)

    boxes = [box(row) for row in rows if row.type != "ignored"]
    arranged: list[list[Box]] = []
    for b in boxes:
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
    """Nets with the rail, and those between a norm and its neighbors that the rail has no part in.

    A norm that follows a layer of the same module (`conv1`, `bn1`) takes that layer's output; any other norm reads the
    rail, and what comes after it reads the norm.
    """
    direct: list[Net] = []
    silent: set[tuple[Box, str]] = set()  # (box, "in" or "out"): joined to a neighbor instead of the rail
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
