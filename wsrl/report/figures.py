"""Interactive figures of the report, as plotly figures without any colors of the page."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from wsrl.evaluation.ranking import unit_vectors
from wsrl.evaluation.results import Retrieval
from wsrl.page.positions import positions
from wsrl.zoo.manifest import Record

# Okabe and Ito's color-blind-safe palette without black, which a dark page would swallow.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
GALLERY_NAMES = {"same": "same architecture", "cross": "other architectures", "any": "any architecture"}
POINTS = 1500  # models on the map at most


def stages(seconds: Mapping[str, float]) -> go.Figure:
    """How long each stage of the run took, in their order."""
    names = [html.escape(name) for name in seconds]
    values = [float(value) for value in seconds.values()]
    bar = go.Bar(
        x=values,
        y=names,
        orientation="h",
        text=[duration(value) for value in values],
        hovertemplate="%{y}: %{text}<extra></extra>",
        marker_color=PALETTE[0],
    )
    figure = go.Figure(bar)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title_text="seconds")
    return figure.update_layout(height=90 + 34 * len(names), margin={"t": 10, "r": 20, "b": 45, "l": 10})


def scores(retrieval: Retrieval, metric: str, title: str) -> go.Figure:
    """One metric of every method on unseen tasks with its interval, for each gallery."""
    figure = go.Figure()
    methods = list(retrieval)
    for (gallery, name), color, symbol in zip(GALLERY_NAMES.items(), PALETTE, SYMBOLS, strict=False):
        cells = [retrieval[method]["unseen"][gallery].metrics[metric] for method in methods]
        known = [i for i, cell in enumerate(cells) if cell.value is not None]
        value = np.array([cells[i].value for i in known])
        figure.add_scatter(
            x=value,
            y=[html.escape(methods[i]) for i in known],
            name=name,
            mode="markers",
            orientation="h",
            marker={"color": color, "symbol": symbol, "size": 10},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": np.array([cells[i].high for i in known]) - value,
                "arrayminus": value - np.array([cells[i].low for i in known]),
                "thickness": 1.5,
            },
            hovertemplate="%{y}: %{x:.3f}<extra>" + name + "</extra>",
        )
    figure.update_yaxes(
        automargin=True,
        categoryorder="array",
        categoryarray=[html.escape(name) for name in methods],
        autorange="reversed",
    )
    figure.update_xaxes(title_text=title, rangemode="tozero")
    return figure.update_layout(
        height=130 + 48 * len(methods),
        scattermode="group",  # the galleries of a method under one another
        margin={"t": 40, "r": 20, "b": 45, "l": 10},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )


def zoo_map(embeddings: Float[np.ndarray, "n dim"], records: Sequence[Record], seed: int = 0) -> go.Figure | None:
    """Two-dimensional t-SNE (van der Maaten and Hinton 2008) of the embeddings, colored in three ways.

    A sample of `POINTS` models keeps it quick. None with fewer than five different vectors, which have no
    map.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(records), size=min(POINTS, len(records)), replace=False))
    shown = [records[i] for i in chosen]
    place = positions(unit_vectors(embeddings[chosen]), seed)
    if place is None:
        return None

    families = sorted({record.architecture for record in shown})
    tasks = {task: i for i, task in enumerate(sorted({record.task for record in shown}))}
    by_task, by_symbol, by_accuracy = [], [], []
    figure = go.Figure()
    for family, color in zip(families, _cycle(PALETTE, len(families)), strict=True):
        rows = [i for i, record in enumerate(shown) if record.architecture == family]
        of_task = [tasks[shown[i].task] for i in rows]
        by_task.append([PALETTE[i % len(PALETTE)] for i in of_task])
        by_symbol.append([SYMBOLS[i // len(PALETTE) % len(SYMBOLS)] for i in of_task])
        by_accuracy.append([shown[i].accuracy for i in rows])
        figure.add_scatter(
            x=place[rows, 0],
            y=place[rows, 1],
            mode="markers",
            name=html.escape(family),
            customdata=[_hover(shown[i]) for i in rows],
            hovertemplate="%{customdata[0]}<br>task %{customdata[1]}<br>%{customdata[2]}, accuracy "
            "%{customdata[3]}<br>%{customdata[4]} task<extra></extra>",
            marker={"size": 7, "opacity": 0.85, "color": color, "symbol": "circle"},
        )
    plain = {"marker.symbol": "circle", "marker.coloraxis": None}
    by_family = {"marker.color": _cycle(PALETTE, len(families)), **plain}
    ways = {
        "Task": ({"marker.color": by_task, **plain, "marker.symbol": by_symbol}, False, False),
        "Architecture": (by_family, True, False),
        "Accuracy": (
            {"marker.color": by_accuracy, **plain, "marker.coloraxis": "coloraxis"},
            False,
            True,
        ),
    }
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [restyle, {"showlegend": legend, "coloraxis.showscale": scale}],
        }
        for label, (restyle, legend, scale) in ways.items()
    ]
    menu = {
        "type": "buttons",
        "direction": "right",
        "x": 0,
        "y": 1.01,
        "yanchor": "bottom",
        "xanchor": "left",
    }
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    return figure.update_layout(
        height=680,
        margin={"t": 60, "r": 10, "b": 10, "l": 10},
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 0, "yanchor": "top"},
        coloraxis={"colorscale": "Cividis", "showscale": False, "colorbar": {"title": {"text": "accuracy"}}},
        updatemenus=[{**menu, "buttons": buttons, "active": 1, "showactive": True}],
    )


def training_curves(curves: Mapping[Any, Sequence[Mapping[str, float | int]]]) -> go.Figure | None:
    """Every metric of the encoder's training by step, one line a seed. None if nothing was recorded."""
    names = list(dict.fromkeys(name for rows in curves.values() for row in rows for name in row))
    names = [name for name in names if name != "step"]
    if not names:
        return None
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure = make_subplots(lines, columns, subplot_titles=[html.escape(name) for name in names])
    for (seed, rows), color in zip(curves.items(), _cycle(PALETTE, len(curves)), strict=True):
        label = f"seed {html.escape(str(seed))}"
        for place, name in enumerate(names):
            points = [(row["step"], row[name]) for row in rows if np.isfinite(row.get(name, np.nan))]
            figure.add_scatter(
                x=[step for step, _ in points],
                y=[value for _, value in points],
                name=label,
                legendgroup=label,
                showlegend=place == 0,
                mode="lines" if len(points) > 1 else "markers",
                line={"color": color},
                row=place // columns + 1,
                col=place % columns + 1,
            )
    figure.update_xaxes(title_text="step", row=lines)
    return figure.update_layout(
        height=90 + 260 * lines,
        margin={"t": 75, "r": 10, "b": 50, "l": 45},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8.1 s, 4 min 05 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _cycle(values: Sequence[str], count: int) -> list[str]:
    return [values[i % len(values)] for i in range(count)]


def _hover(record: Record) -> list[str]:
    """Texts of a model's hover box, in which plotly would take < and & for markup."""
    accuracy = f"{record.accuracy:.3f}"
    half = {"train": "seen", "test": "unseen"}.get(record.split or "", record.split or "unknown")
    return [html.escape(str(text)) for text in (record.id, record.task, record.architecture, accuracy, half)]
