"""A canvas for boxes, lines and text that becomes an SVG file (https://www.w3.org/TR/SVG11/)."""

from collections.abc import Sequence
from xml.etree import ElementTree

INK, SIZE = "#1f2933", 13  # of text where nothing else is said
Pixels = int | float


class Canvas:
    """Draws in the order of its calls; coordinates in pixels from the upper left corner."""

    def __init__(self, width: Pixels, height: Pixels, title: str):
        size = {"width": _number(width), "height": _number(height)}
        font = {"font-family": "Helvetica, Arial, sans-serif"}
        area = f"0 0 {_number(width)} {_number(height)}"
        self._root = ElementTree.Element(
            "svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "viewBox": area, **font}
        )
        ElementTree.SubElement(self._root, "title").text = title
        self.rectangle(0, 0, width, height, "#ffffff")

    def rectangle(
        self, x: Pixels, y: Pixels, width: Pixels, height: Pixels, fill: str, border: str = "none", radius: int = 0
    ) -> None:
        """A box, its corners rounded by the radius."""
        numbers = {"x": x, "y": y, "width": width, "height": height, "rx": radius}
        self._add("rect", {**{k: _number(v) for k, v in numbers.items()}, "fill": fill, "stroke": border})

    def text(
        self, x: Pixels, y: Pixels, text: str, fill: str = INK, size: int = SIZE, anchor: str = "start", turn: int = 0
    ) -> None:
        """Text whose start, middle or end is at x and whose base line is at y, turned by degrees about that point."""
        numbers = {"x": _number(x), "y": _number(y), "font-size": str(size)}
        turned = {"transform": f"rotate({turn} {_number(x)} {_number(y)})"} if turn else {}
        self._add("text", {**numbers, "fill": fill, "text-anchor": anchor, **turned}).text = text

    def line(self, points: Sequence[tuple[Pixels, Pixels]], color: str, width: Pixels = 1.5) -> None:
        """A line through points."""
        style = {"fill": "none", "stroke": color, "stroke-width": _number(width), "stroke-linecap": "round"}
        self._add("polyline", {"points": _points(points), **style})

    def arrow_down(self, x: Pixels, start: Pixels, end: Pixels, color: str) -> None:
        """An upright line that ends in an arrow."""
        self.line([(x, start), (x, end)], color)
        self._add("polygon", {"points": _points([(x, end), (x - 4, end - 7), (x + 4, end - 7)]), "fill": color})

    def dot(self, x: Pixels, y: Pixels, color: str) -> None:
        """A junction of lines."""
        self._add("circle", {"cx": _number(x), "cy": _number(y), "r": "4", "fill": color})

    def to_bytes(self) -> bytes:
        """Returns the file, in UTF-8."""
        ElementTree.indent(self._root)
        return ElementTree.tostring(self._root, encoding="utf-8", xml_declaration=True) + b"\n"

    def _add(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        return ElementTree.SubElement(self._root, tag, attributes)


def _points(points: Sequence[tuple[Pixels, Pixels]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: Pixels) -> str:
    return f"{value:.1f}".removesuffix(".0")
