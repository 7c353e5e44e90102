"""Models of a zoo that answer a query, as a table and as JSON lines."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wsrl.cli.text import printable

if TYPE_CHECKING:
    from wsrl.zoo.manifest import Record

Scores = Mapping[str, float | None]  # of a hit, by name; None where one has none

About = Mapping[str, object]  # what a manifest tells of a model, by name

PREDICTED = "predicted_accuracy"  # what is told of a model without a manifest
HEADINGS = {"logme": "LogME", PREDICTED: "predicted accuracy"}  # of what is not called by its name
SHOWN = ("task", "architecture", "accuracy")  # of what a manifest tells
PIPE_WIDTH = 10_000  # characters: a line of the table stays a line for whoever reads the pipe


def about_record(record: "Record") -> About:
    """What is told of a model of a zoo."""
    return {key: record.get(key) for key in (*SHOWN, "path")}


def hit_json(rank: int, model: str, scores: Scores, about: About, **query: str) -> str:
    """One line about a hit, after what names the query; scores that it has none of are left out."""
    told = {name: round(value, 6) for name, value in scores.items() if value is not None}
    return json.dumps({**query, "rank": rank, "id": model, **told, **about})


def print_hits(lines: Sequence[str], hits: Sequence[tuple[str, Scores, About]]) -> None:
    """Prints lines, an empty one and a table of the hits; scores that none has get no column."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    scored = [name for name in (hits[0][1] if hits else ()) if any(own[name] is not None for _, own, _ in hits)]
    told = [name for name in (*SHOWN, PREDICTED) if hits and name in hits[0][2]]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ["rank", *(HEADINGS.get(name, name) for name in [*scored, *told]), "model"]:
        number = heading not in ("task", "architecture", "model")
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for rank, (model, own, about) in enumerate(hits, 1):
        values = (own[name] for name in scored)
        scores = ("-" if value is None else f"{value:.3f}" for value in values)
        texts = [f"{about[name]:.2f}" if name in ("accuracy", PREDICTED) else str(about[name]) for name in told]
        table.add_row(str(rank), *scores, *(printable(text) for text in [*texts, model]))
    with console.capture() as capture:
        for line in lines:
            console.print(Text(printable(line)))
        console.print()
        console.print(table)
    print("\n".join(line.rstrip(" ") for line in capture.get().split("\n")), end="")
