"""Names and figures as people read them."""

import re
from collections.abc import Sequence
from itertools import pairwise
from math import prod

LISTED = 4  # numbers that are listed one by one


def printable(text: str) -> str:
    r"""Returns the text with all that could steer a terminal or end a line written as an escape such as `\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def bytes_text(count: int | float) -> str:
    """Returns a number of bytes in decimal units, e.g. `437.9 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def counted(count: int, one: str, many: str = "") -> str:
    """Returns how many there are of something: `1 model`, `2,210 models`; `many` where that is no `s` behind it."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def shape_text(shape: Sequence[int]) -> str:
    """Returns a shape, e.g. `64 x 3 x 7 x 7`; `scalar` where it has no axes."""
    return " x ".join(map(str, shape)) or "scalar"


def brace(names: Sequence[str]) -> str:
    """Writes names that differ in numbers as one, as a shell's braces do: `g{1..12}`, `g{1..34..3}`, `a{0..1}.b{0..3}`.

    Names that differ otherwise are told by the first and the last.
    """
    distinct = list(dict.fromkeys(names))
    parts = [re.split(r"([0-9]{1,18})", name) for name in distinct]
    if len({len(p) for p in parts}) > 1:
        return f"{distinct[0]} .. {distinct[-1]}"
    columns = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    words_differ = any(len(column) > 1 for column in columns[::2])
    if words_differ or prod(map(len, columns)) != len(distinct):
        return f"{distinct[0]} .. {distinct[-1]}"
    return "".join(c[0] if len(c) == 1 else "{" + _numbers(c) + "}" for c in columns)


def _numbers(values: list[str]) -> str:
    steps = {int(b) - int(a) for a, b in pairwise(values)}
    if len(steps) == 1 and (len(values) > 2 or steps == {1}):
        return f"{values[0]}..{values[-1]}" + ("" if steps == {1} else f"..{steps.pop()}")
    return ",".join(values if len(values) <= LISTED else [*values[: LISTED - 2], "..", values[-1]])
