"""Common plots of tables, drawn without pyplot so that they leave no state behind."""

from collections.abc import Sequence
from dataclasses import astuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsrl.evaluation.interval import Interval
from wsrl.evaluation.results import plain
from wsrl.report.figures import PALETTE
from wsrl.report.tables import Cell, Row

WIDTH = 7.5  # inches
MARKERS = "osD^vPX"


def bar_figure(rows: Sequence[Row], label: str, values: Sequence[str], axis: str) -> Figure:
    """Horizontal bars: a group a row, in it a bar for each of the columns, with its interval where there is one.

    Args:
      rows: of the table.
      label: column that names a group.
      values: columns with numbers or intervals.
      axis: what the bars measure, with its unit.
    """
    figure, axes = _figure(0.9 + 0.24 * len(rows) * (len(values) + 0.6))
    thickness = 0.8 / len(values)
    for place, column in enumerate(values):
        known = [(i, _interval(row.get(column))) for i, row in enumerate(rows)]
        drawn = [(i - 0.4 + (place + 0.5) * thickness, interval) for i, interval in known if interval]
        heights, lengths = [y for y, _ in drawn], [value for _, (value, _, _) in drawn]
        lows, highs = [low for _, (_, low, _) in drawn], [high for _, (_, _, high) in drawn]
        axes.barh(heights, lengths, thickness, color=PALETTE[place % len(PALETTE)], label=column)
        axes.hlines(heights, lows, highs, "#333333", linewidth=1.2)  # of few resamples, not all reach the value
    axes.set_yticks(range(len(rows)), [str(row[label]) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.grid(axis="x")
    if len(values) > 1:
        axes.legend(frameon=False)
    return figure


def line_figure(
    rows: Sequence[Row],
    x: str,
    y: str,
    by: str | None = None,
    log: str = "",
    axis: str | None = None,
) -> Figure:
    """Lines with bands for intervals.

    Args:
      rows: of the table; a line goes through its rows in the order of x.
      x: column with numbers.
      y: column with numbers or intervals.
      by: column that tells the lines apart; by default there is one line.
      log: axes with a logarithmic scale: "", "x", "y" or "xy".
      axis: what y measures, with its unit; by default the column's name.
    """
    figure, axes = _figure(3.6)
    lines: dict[str, list[tuple[float, tuple[float, float, float]]]] = {}
    for row in rows:
        place, interval = _interval(row.get(x)), _interval(row.get(y))
        if place and interval:
            lines.setdefault(str(row[by]) if by else y, []).append((place[0], interval))
    for number, (name, points) in enumerate(lines.items()):
        points.sort()
        places = [place for place, _ in points]
        value, low, high = zip(*(interval for _, interval in points), strict=True)
        color = PALETTE[number % len(PALETTE)]
        axes.plot(places, value, color=color, marker=MARKERS[number % len(MARKERS)], markersize=5, label=name)
        axes.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(axis or y)
    axes.grid()
    if by:
        axes.legend(frameon=False)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.grid(visible=False)
    return figure, axes


def _interval(cell: Cell) -> tuple[float, float, float] | None:
    """Value, low and high of a number or an interval; bounds that are missing are the value."""
    if isinstance(cell, str):
        return None
    parts = [plain(part) for part in (astuple(cell) if isinstance(cell, Interval) else [cell] * 3)]
    if parts[0] is None:
        return None
    value, low, high = (float(parts[0] if part is None else part) for part in parts)
    return value, low, high
