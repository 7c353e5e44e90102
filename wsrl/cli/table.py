"""The table that `wsrl inspect` prints for people."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsrl.checkpoint import Checkpoint
from wsrl.drawing.fold import GroupRow, Row, fold_groups, fold_operations
from wsrl.text import brace, bytes_text, printable, shape_text
from wsrl.wiring.wiring import Wiring

PIPE_WIDTH = 10_000  # characters: a line of the table stays a line for whoever reads the pipe
BREAK = "\x1f"  # in a cell: a long name may go on in the next line here; as wide as nothing, not printed
SHOWN_NAMES = 2  # of those that hold a group, say
SHOWN_WARNINGS = 10


def print_table(checkpoint: Checkpoint, wiring: Wiring, unfold: bool = False, width: int | None = None) -> None:
    """Prints header, operations, groups, coverage, assumptions and warnings to stdout; plain text if it is no terminal.

    Args:
      unfold: show every operation, group and warning.
      width: in characters; by default the terminal's, or that of COLUMNS.
    """
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    if width is None and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    rows = fold_operations(wiring, unfold)
    with console.capture() as capture:
        for part in (
            Text(_header(checkpoint)),
            _title("Operations"),
            _operations(rows),
            _title("Groups"),
            _groups(fold_groups(wiring, rows), wiring, unfold),
            _title("Coverage"),
            Text(_coverage(wiring)),
        ):
            console.print(part)
        if "graph" in checkpoint.metadata or checkpoint.keras_config:
            from wsrl.forward.image_network import how_run  # not needed otherwise: the command starts fast

            if line := how_run(checkpoint):
                console.print(_title("Function"), Text(printable(line)), sep="\n")
        assumed = list(_assumed(rows, wiring, unfold))
        if assumed:
            console.print(_title("Assumed"))
        for line in assumed:
            console.print(Text(f"- {printable(line)}"))
        warnings = [*checkpoint.warnings, *wiring.warnings, *_left_out(checkpoint, unfold)]
        if warnings:
            console.print(_title("Warnings"))
        for line in _shortened(warnings, unfold):
            console.print(Text(f"- {printable(line)}", style="yellow"))
    lines = capture.get().replace(BREAK, "").split("\n")
    print("\n".join(line.rstrip(" ") for line in lines), end="")  # columns are filled up with blanks


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _header(checkpoint: Checkpoint) -> str:
    entries: dict[str, int] = defaultdict(int)
    for tensor in checkpoint.tensors.values():
        entries[str(tensor.dtype)] += tensor.size
    stored = ", ".join(f"{name} {_stored(name, count)}" for name, count in sorted(entries.items()))
    total = f"{sum(entries.values()):,} parameters in {len(checkpoint.tensors):,} tensors"
    return printable(f"{checkpoint.path}: {checkpoint.format}, {total}, {stored}")


def _stored(dtype: str, entries: int) -> str:
    """Bytes where the type tells its bits; block-quantized types (`q4_0`) store scales beside them: entries then."""
    bits = re.match(r"[a-z]+(\d+)", dtype)
    known = bits is not None and not dtype.startswith(("q", "iq"))
    return bytes_text(entries * int(bits.group(1)) / 8) if bits and known else f"{entries:,} entries"


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> Table:
    """A table without lines; columns are (heading, `wrap`, `left` or `right`), empty ones are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    for heading, form in (columns[i] for i in kept):
        justify = "right" if form == "right" else "left"
        table.add_column(heading, justify=justify, no_wrap=form != "wrap", overflow="fold")
    for row in rows:
        table.add_row(*(Text(re.sub(r"(?<!\.)([./])(?!\.)", rf"\1{BREAK}", printable(row[i]))) for i in kept))
    return table


def _operations(rows: Sequence[Row]) -> Table:
    columns = (
        ("operation", "wrap"), ("", "right"), ("type", "left"), ("weight", "left"), ("parameters", "right"),
        ("reads -> writes", "wrap"),
    )  # fmt: skip
    cells = []
    for row in rows:
        sides = f"{_side([s.reads for s in row.sides])} -> {_side([s.writes for s in row.sides])}"
        sides = "-" if row.type == "ignored" else sides
        shape = shape_text(row.shape)
        cells.append((row.name, _times(row.operations), row.type, shape, f"{row.parameters:,}", sides))
    return _table(columns, cells)


def _times(repeated: Sequence) -> str:
    return f"x{len(repeated)}" if len(repeated) > 1 else ""


def _side(sides: Sequence[tuple]) -> str:
    """Groups with their sizes, and lengths that no group holds; one of each repeated block."""
    places = []
    for segments in zip(*sides, strict=True):
        size = str(segments[0].size)
        places.append(size if segments[0].group is None else f"{brace([s.group for s in segments])} {size}")
    return ", ".join(places) or "-"


def _groups(groups: Sequence[GroupRow], wiring: Wiring, unfold: bool) -> Table:
    columns = (
        ("group", "left"), ("", "right"), ("size", "right"), ("role", "left"), ("scale", "left"),
        ("permutable", "left"), ("held by", "wrap"),
    )  # fmt: skip
    cells = []
    for group in groups:
        neurons = wiring.groups[group.ids[0]]
        permutable = "yes" if neurons.permutable else "no"
        name, size = brace(group.ids), f"{neurons.size:,}"
        cells.append(
            (name, _times(group.ids), size, neurons.role, neurons.scale, permutable, _some(group.tensors, unfold))
        )
    return _table(columns, cells)


def _coverage(wiring: Wiring) -> str:
    return ", ".join(f"{share} {100 * value:.1f} %" for share, value in wiring.coverage.items()) + " of the parameters"


def _assumed(rows: Sequence[Row], wiring: Wiring, unfold: bool) -> Iterator[str]:
    """What is assumed of operations, a line for each kind of fact and value."""
    found: dict[str, list[str]] = defaultdict(list)
    scaled = any(group.scale != "none" for group in wiring.groups.values())
    for row in rows:
        if row.operations[0].source == "assumed":
            found["the place among the other operations"].append(row.name)
        for name, fact in row.operations[0].facts.items():
            if fact.source == "assumed" and fact.value is None:
                scale = ", so that the scale of units is none" if name == "activation" and not scaled else ""
                found[f"{name} is unknown{scale}"].append(row.name)
            elif fact.source == "assumed":
                found[f"{name} is {fact.value}"].append(row.name)
    for line, names in found.items():
        yield f"{line}: {_some(names, unfold)}"


def _left_out(checkpoint: Checkpoint, unfold: bool) -> Iterator[str]:
    if names := checkpoint.left_out:
        yield f"{len(names):,} left out, no weights: {_some(names, unfold)}"


def _some(names: Sequence[str], unfold: bool) -> str:
    """All names, or the first ones and how many more there are."""
    shown = names if unfold else names[:SHOWN_NAMES]
    more = [f"{len(names) - len(shown)} more"] if len(shown) < len(names) else []
    return ", ".join([*shown, *more]) or "-"


def _shortened(lines: Sequence[str], unfold: bool) -> Iterator[str]:
    yield from lines if unfold else lines[:SHOWN_WARNINGS]
    if len(lines) > SHOWN_WARNINGS and not unfold:
        yield f"{len(lines) - SHOWN_WARNINGS} more, shown by --all"
