"""Draws the layer graph of a wiring as SVG: boxes for layers, frames for repeated blocks, lines for groups."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from wsrl.drawing.fold import GroupRow, fold_groups, fold_operations
from wsrl.drawing.layout import Box, Net, arrange, find_nets
from wsrl.drawing.svg import Canvas, Pixels
from wsrl.text import brace, printable, shape_text
from wsrl.wiring.wiring import Wiring

# pixels
MARGIN = 24
TITLE = 64
LEGEND = 56
LANE = 26  # between rails
CHARACTER, SMALL_CHARACTER = 7.2, 6.1  # mean widths of the fonts of 13 and 11 pixels, on the safe side
BOX, THIN_BOX = 42, 24  # heights; norms are thin
BETWEEN = 18  # between boxes of a row
GAP = 30  # between rows with one line
NO_GAP = 12  # between rows without a line
BUS = 14  # between horizontal lines of a gap
PORT = 16  # between lines that meet one edge of a box
FRAME_TOP, FRAME_END, FRAME_SIDE = 26, 12, 14
SMALL = 11  # text

MUTED, LINE, FRAME_BORDER = "#52606d", "#7b8794", "#cbd2d9"
FRAMES = ("#f5f7fa", "#ffffff")  # outer, within it, ...
NOTE = "Lines: neuron groups and their sizes. Thick: groups that distant layers share. Frames: repeated blocks."
RAILS = ("#d64545", "#2f6fdf", "#d9822b", "#0f9d8a", "#8a4fd3", "#b8379b")
FILLS = {  # the first that the type's name holds: (fill, border)
    "norm": ("#fdf3c7", "#c9a227"),
    "conv": ("#d3f2dc", "#3a9d5d"),
    "linear": ("#d6e6fb", "#3f7bc8"),
    "embed": ("#e8dcfb", "#8457c9"),
    "position": ("#e8dcfb", "#8457c9"),
    "attention": ("#fbdcd3", "#cf5c36"),
    "expert": ("#fbdcd3", "#cf5c36"),
    "": ("#e4e7eb", "#7b8794"),
}


@dataclass
class _Place:
    """Where a box stands, in pixels."""

    x: Pixels
    y: Pixels
    width: Pixels
    height: Pixels

    @property
    def middle(self) -> Pixels:
        return self.x + self.width / 2


def plot(wiring: Wiring, title: str, unfold: bool = False) -> bytes:
    """Returns the layer graph as an SVG file in UTF-8.

    Args:
      title: written above the drawing.
      unfold: draw every layer instead of one of each repeated block.
    """
    rows = fold_operations(wiring, unfold)
    groups = fold_groups(wiring, rows)
    return _Drawing(wiring, groups, arrange(rows, groups)).svg(title)


class _Drawing:
    """Places boxes and lines, then writes them."""

    def __init__(self, wiring: Wiring, groups: Sequence[GroupRow], arranged: list[list[Box]]):
        self.wiring = wiring
        self.groups = groups
        self.arranged = arranged
        self.nets: dict[int, list[Net]] = defaultdict(list)
        for net in find_nets(arranged):
            self.nets[net.gap].append(net)
        self.frames = _frames(arranged)
        self.lanes = self._lanes()
        self.colors = dict(zip(self.lanes, cycle(RAILS), strict=False))
        self.places: dict[Box, _Place] = {}
        self.buses: dict[tuple[int, int], Pixels] = {}  # (gap, position in it) -> y
        self.edges: dict[int, Pixels] = {}  # row -> y of its top
        self._place()

    def _lanes(self) -> dict[int, int]:
        """Rail -> lane, the outermost for the longest; rails that do not overlap share one."""
        spans: dict[int, list[int]] = defaultdict(list)
        for gap, nets in self.nets.items():
            for net in nets:
                if net.rail:
                    spans[net.group].append(gap)
        lanes: list[list[tuple[int, int]]] = []
        found = {}
        for group in sorted(spans, key=lambda g: (min(spans[g]) - max(spans[g]), g)):
            span = min(spans[group]), max(spans[group])
            free = (i for i, lane in enumerate(lanes) if all(span[1] < a or b < span[0] for a, b in lane))
            lane = next(free, len(lanes))
            lanes[lane:] = lanes[lane:] or [[]]
            lanes[lane].append(span)
            found[group] = lane
        return found

    def _place(self) -> None:
        depth = max((len(frames) for frames in self.frames), default=0)
        widths = [[self._width(box) for box in row] for row in self.arranged]
        inner = max((sum(row) + BETWEEN * (len(row) - 1) for row in widths), default=0)
        # a frame's name stands left of the lines, which go through its middle
        labels = [2 * SMALL_CHARACTER * len(_frame_label(block)) for frames in self.frames for block in frames]
        inner = max([inner, *labels])
        rails = max(self.lanes.values(), default=-1) + 1
        self.left = MARGIN + LANE * rails + (BETWEEN if rails else 0)
        middle = self.left + FRAME_SIDE * depth + inner / 2
        self.right = self.left + 2 * FRAME_SIDE * depth + inner
        y = float(MARGIN + TITLE)
        for i in range(len(self.arranged) + 1):
            above = self.frames[i - 1] if i else ()
            below = self.frames[i] if i < len(self.arranged) else ()
            same = _shared(above, below)
            y += FRAME_END * (len(above) - same)
            nets = self.nets[i]
            for k in range(len(nets)):
                self.buses[i, k] = y + GAP / 2 + BUS * k
            y += GAP + BUS * (len(nets) - 1) if nets else NO_GAP
            if nets and not any(net.targets for net in nets):
                y += NO_GAP  # or an output would seem to lead into the next box
            y += FRAME_TOP * (len(below) - same)
            if i == len(self.arranged):
                break
            self.edges[i] = y
            x = middle - (sum(widths[i]) + BETWEEN * (len(widths[i]) - 1)) / 2
            height = max(self._height(box) for box in self.arranged[i])
            for box, width in zip(self.arranged[i], widths[i], strict=True):
                self.places[box] = _Place(x, y, width, height)
                x += width + BETWEEN
            y += height
        self.bottom = y

    def _label(self, box: Box) -> tuple[str, str]:
        """Name within the innermost block, and what it is."""
        name, block = box.row.name, box.row.blocks[-1][0] if box.row.blocks else ""
        name = name[len(block) + 1 :] if name.startswith(block) and len(name) > len(block) > 0 else name
        return printable(name), printable(f"{box.row.type} · {shape_text(box.row.shape)}")

    def _width(self, box: Box) -> Pixels:
        name, what = self._label(box)
        if box.is_norm:
            return CHARACTER * len(name) + SMALL_CHARACTER * len(what) + 36
        return max(CHARACTER * len(name), SMALL_CHARACTER * len(what)) + 24

    def _height(self, box: Box) -> int:
        return THIN_BOX if box.is_norm else BOX

    def svg(self, title: str) -> bytes:
        """Returns the file."""
        title = printable(title)
        about = f"{self.wiring.parameters:,} parameters, {100 * self.wiring.coverage['graph']:.1f} % in the graph"
        types = list(dict.fromkeys(box.row.type for row in self.arranged for box in row))
        legend = [(type, SMALL_CHARACTER * len(type) + 36) for type in types]
        longest = max(len(about), len(NOTE))
        wide = max(1.2 * CHARACTER * len(title), SMALL_CHARACTER * longest, sum(width for _, width in legend))
        height = self.bottom + LEGEND + MARGIN
        canvas = Canvas(max(self.right, MARGIN + wide) + MARGIN, height, title)
        canvas.text(MARGIN, MARGIN + 12, title, size=16)
        canvas.text(MARGIN, MARGIN + 32, about, MUTED, SMALL)
        self._draw_frames(canvas)
        self._draw_rails(canvas)
        for gap in sorted(self.nets):
            for k, net in enumerate(self.nets[gap]):
                self._draw_net(canvas, net, self.buses[gap, k])
        for box, place in self.places.items():
            self._draw_box(canvas, box, place)
        x, y = MARGIN, height - MARGIN - 30
        for type, width in legend:
            canvas.rectangle(x, y, 14, 14, *_colors(type), 3)
            canvas.text(x + 20, y + 11, printable(type), MUTED, SMALL)
            x += width
        canvas.text(MARGIN, y + 32, NOTE, MUTED, SMALL)
        return canvas.to_bytes()

    def _draw_frames(self, canvas: Canvas) -> None:
        """Frames around repeated blocks, outer ones first."""
        for level in range(max(map(len, self.frames), default=0)):
            start = 0
            for end in range(1, len(self.frames) + 1):
                if end < len(self.frames) and _shared(self.frames[start], self.frames[end]) > level:
                    continue
                if len(self.frames[start]) > level:
                    self._draw_frame(canvas, level, start, end - 1)
                start = end

    def _draw_frame(self, canvas: Canvas, level: int, first: int, last: int) -> None:
        before = self.frames[first - 1] if first else ()
        after = self.frames[last + 1] if last + 1 < len(self.frames) else ()
        opened = len(self.frames[first]) - max(level, _shared(before, self.frames[first]))
        closed = len(self.frames[last]) - max(level, _shared(self.frames[last], after))
        lowest = self.places[self.arranged[last][0]]
        top = self.edges[first] - FRAME_TOP * opened
        bottom = lowest.y + lowest.height + FRAME_END * closed
        x, right = self.left + FRAME_SIDE * level, self.right - FRAME_SIDE * level
        canvas.rectangle(x, top, right - x, bottom - top, FRAMES[level % len(FRAMES)], FRAME_BORDER, 8)
        canvas.text(x + 10, top + 16, _frame_label(self.frames[first][level]), MUTED, SMALL)

    def _draw_rails(self, canvas: Canvas) -> None:
        buses: dict[int, list[Pixels]] = defaultdict(list)
        for gap, nets in self.nets.items():
            for k, net in enumerate(nets):
                if net.rail:
                    buses[net.group].append(self.buses[gap, k])
        for group, ys in buses.items():
            x, color = self._rail(group), self._color(group)
            canvas.line([(x, min(ys)), (x, max(ys))], color, width=3)
            canvas.text(x - 6, min(ys) + 4, self._name(group), color, SMALL, anchor="end", turn=-90)

    def _draw_net(self, canvas: Canvas, net: Net, bus: Pixels) -> None:
        color = self._color(net.group)
        starts = [(self._port(box, net), self.places[box].y + self.places[box].height) for box in net.sources]
        ends = [(self._port(box, net), self.places[box].y) for box in net.targets]
        xs = [x for x, _ in (*starts, *ends)]
        if net.rail:
            xs.append(self._rail(net.group))
            canvas.dot(xs[-1], bus, color)
        else:
            leftmost = min((*net.sources, *net.targets), key=lambda box: self.places[box].x)
            if self._port(leftmost, net) < self.places[leftmost].middle:  # a neighbor's line is on the right
                canvas.text(min(xs) - 7, bus + 4, self._name(net.group), MUTED, SMALL, anchor="end")
            else:
                canvas.text(max(xs) + 7, bus + 4, self._name(net.group), MUTED, SMALL)
        if max(xs) > min(xs):
            canvas.line([(min(xs), bus), (max(xs), bus)], color)
        for x, y in starts:
            if ends or net.rail:
                canvas.line([(x, y), (x, bus)], color)
            else:  # an output of the network
                canvas.arrow_down(x, y, bus + 8, color)
        for x, y in ends:
            canvas.arrow_down(x, bus if starts or net.rail else bus - 8, y, color)

    def _port(self, box: Box, net: Net) -> Pixels:
        """Where on the box's edge the net starts or ends: nets of one edge stand side by side."""
        side = [n for n in self.nets[net.gap] if box in (n.sources if box in net.sources else n.targets)]
        return self.places[box].middle + PORT * (side.index(net) - (len(side) - 1) / 2)

    def _draw_box(self, canvas: Canvas, box: Box, place: _Place) -> None:
        canvas.rectangle(place.x, place.y, place.width, place.height, *_colors(box.row.type), 5)
        name, what = self._label(box)
        if box.is_norm:
            canvas.text(place.x + 12, place.y + 16, name)
            canvas.text(place.x + place.width - 12, place.y + 16, what, MUTED, SMALL, anchor="end")
        else:
            canvas.text(place.middle, place.y + 17, name, anchor="middle")
            canvas.text(place.middle, place.y + 33, what, MUTED, SMALL, anchor="middle")

    def _rail(self, group: int) -> Pixels:
        return MARGIN + LANE * (self.lanes[group] + 0.5)

    def _color(self, group: int) -> str:
        return self.colors.get(group, LINE)

    def _name(self, group: int) -> str:
        ids = self.groups[group].ids
        return printable(f"{brace(ids)} · {self.wiring.groups[ids[0]].size:,}")


def _frames(arranged: Sequence[Sequence[Box]]) -> list[tuple[tuple[str, int], ...]]:
    """The repeated blocks around each row."""
    return [row[0].row.blocks for row in arranged]


def _frame_label(block: tuple[str, int]) -> str:
    name, times = block
    return f"{printable(name)} × {times}"


def _shared(one: Sequence, other: Sequence) -> int:
    """How many blocks, from the outermost, two rows share."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def _colors(type: str) -> tuple[str, str]:
    return next(colors for word, colors in FILLS.items() if word in type)
