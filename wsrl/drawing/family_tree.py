"""Draws families of models as SVG: a row for each model, children below their parents and to the right of them."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from wsrl.comparison.relation import WORDS
from wsrl.drawing.svg import Canvas, Pixels
from wsrl.origins.lineage import Family, Link
from wsrl.text import printable

# pixels
MARGIN, TITLE, ROW, INDENT, BETWEEN = 24, 56, 40, 28, 20
BOX, ABOVE, ARM = 24, 16, 10  # of a row: height of the box, base line of its text, and what a line goes down before it
CHARACTER, SMALL_CHARACTER = 7.2, 6.1  # mean widths of the fonts of 13 and 11 pixels, on the safe side
PADDING, SMALL = 8, 11
KNOWN, UNKNOWN, MUTED = "#2f6fdf", "#b3bcc6", "#52606d"
ROOT_FILL, FILL, BORDER = "#d6e6fb", "#f5f7fa", "#7b8794"
NOTE = (
    "Blue lines lead from a parent to its child. Gray lines with ? join relatives of which neither is known to be it."
)

Drawn = tuple[int, Link | None, str]  # depth, link to the one above, model


def draw_families(families: Sequence[Family], title: str) -> bytes:
    """Returns a drawing of families as an SVG file in UTF-8."""
    start = _common_folder([name for family in families for name in family.models])
    drawn = [list(_below(family, family.root, None, 0)) for family in families]
    texts = {id(row): _texts(family, row, start) for family, rows in zip(families, drawn, strict=True) for row in rows}
    rights = [_right(row, *texts[id(row)]) for rows in drawn for row in rows]
    width = max([*rights, MARGIN + SMALL_CHARACTER * len(NOTE)]) + MARGIN
    rows, gaps = sum(map(len, drawn)), max(len(drawn) - 1, 0)
    canvas = Canvas(width, 2 * MARGIN + TITLE + ROW * rows + BETWEEN * gaps, printable(title))
    canvas.text(MARGIN, MARGIN + ABOVE, printable(title), size=16)
    canvas.text(MARGIN, MARGIN + 2 * ABOVE + 4, NOTE, MUTED, SMALL)
    y: Pixels = MARGIN + TITLE
    for own in drawn:
        tops: dict[str, Pixels] = {}
        for row in own:
            tops[row[2]] = y
            _draw(canvas, row, y, tops, *texts[id(row)])
            y += ROW
        y += BETWEEN
    return canvas.to_bytes()


def _below(family: Family, name: str, link: Link | None, depth: int) -> Iterator[Drawn]:
    """The models of a tree in the order of their rows; without recursion, as a chain may be long."""
    children: dict[str, list[Link]] = {}
    for own in family.links:
        children.setdefault(own.parent, []).append(own)
    waiting: list[Drawn] = [(depth, link, name)]
    while waiting:
        row = waiting.pop()
        yield row
        waiting += [(row[0] + 1, own, own.child) for own in reversed(children.get(row[2], []))]


def _texts(family: Family, row: Drawn, start: str) -> tuple[str, str]:
    """What stands in a box and behind it."""
    _, link, name = row
    copies = family.copies.get(name, ())
    label = " = ".join(printable(own.removeprefix(start)) for own in (name, *copies))
    absent = [f"declares {base}, which is not in the index" for base in family.absent.get(name, ())]
    if link is None:
        return label, printable("; ".join(absent))
    evidence = [f"since {'; '.join(link.evidence)}"] if link.directed else ["direction unknown"]
    return label, printable(", ".join([WORDS[link.kind].removeprefix("related: "), *evidence, *absent]))


def _right(row: Drawn, label: str, note: str) -> Pixels:
    """The end of what is drawn of a row."""
    return MARGIN + row[0] * INDENT + _width(label) + PADDING + SMALL_CHARACTER * len(note)


def _width(label: str) -> Pixels:
    return CHARACTER * len(label) + 2 * PADDING


def _draw(canvas: Canvas, row: Drawn, y: Pixels, tops: dict[str, Pixels], label: str, note: str) -> None:
    depth, link, _ = row
    left = MARGIN + depth * INDENT
    if link is not None:
        color = KNOWN if link.directed else UNKNOWN
        stem = left - INDENT + ARM
        canvas.line([(stem, tops[link.parent] + BOX), (stem, y + BOX / 2), (left, y + BOX / 2)], color)
        if not link.directed:
            canvas.text(stem + 3, y + BOX / 2 - 3, "?", MUTED, SMALL)
    canvas.rectangle(left, y, _width(label), BOX, FILL if link else ROOT_FILL, BORDER, 4)
    canvas.text(left + PADDING, y + ABOVE, label)
    canvas.text(left + _width(label) + PADDING, y + ABOVE, note, MUTED, SMALL)


def _common_folder(names: Sequence[str]) -> str:
    """The folder that all names lie in, which need not be repeated."""
    folders = [name.split("/")[:-1] for name in names] if len(names) > 1 else [[]]
    common = list(takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))
    return "".join(f"{parts[0]}/" for parts in common)
