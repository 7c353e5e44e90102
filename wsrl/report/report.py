"""Fills the report's template and writes the file."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.offline
from jaxtyping import Float
from markupsafe import Markup

from wsrl.evaluation.examples import QueryExample
from wsrl.evaluation.interval import Interval
from wsrl.evaluation.results import Results, Retrieval
from wsrl.files import write_atomically
from wsrl.report import figures
from wsrl.zoo.manifest import Record

METRIC_NAMES = {
    "precision_at_1": "P@1",
    "precision_at_10": "P@10",
    "r_precision": "R-precision",
    "map": "mAP",
    "ndcg_at_10": "nDCG@10",
    "mrr": "MRR",
}
FORM_NAMES = {
    "retrieval": "every model with its own class order",
    "retrieval_neighborhoods": "the same, searched by neighborhoods",
    "retrieval_shared_order": "class order shared by the models of a data set",
}
TASK_COLUMNS = 3  # of the table of structure, where more is better
HALF_NAMES = {"unseen": "Unseen tasks", "seen": "Tasks seen in training"}


@dataclass(frozen=True)
class Table:
    """Methods by metrics.

    Attributes:
      caption, columns: texts.
      rows: methods, with an interval for each column.
      best: greatest value of each of the first columns, which the page marks.
    """

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[Interval]]]
    best: list[float | int | None]


def write_report(
    path: str | os.PathLike[str],
    *,
    results: Results,
    records: Sequence[Record],
    embeddings: Float[np.ndarray, "n dim"],
    examples: Sequence[QueryExample],
    curves: Mapping[Any, Sequence[Mapping[str, float | int]]],
    problems: Sequence[str],
    config: str,
    encoder: str,
) -> None:
    """Writes one self-contained HTML file, atomically: scripts, styles and data stand in it, nothing is
    loaded.

    Args:
      path: of the file, usually report.html.
      results: of the run.
      records: all models.
      embeddings: of all models by one encoder, for the map.
      examples: from `wsrl.evaluation.query_examples`.
      curves: rows of metrics ("step" and others) of each encoder seed.
      problems: skipped models and failed runs, one line each.
      config: the run's configuration as text.
      encoder: name of the encoder among the methods of the results.
    """
    drawn = {
        "stages": figures.stages(results.seconds) if results.seconds else None,
        "scores": figures.scores(results.retrieval, "precision_at_10", "P@10 on unseen tasks"),
        "map": figures.zoo_map(embeddings, records),
        "curves": figures.training_curves(curves),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wsrl.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        plotly=Markup(plotly.offline.get_plotlyjs()),
        figures={name: _embedded(figure) for name, figure in drawn.items() if figure is not None},
        counts=results.counts,
        unseen=results.of_half["unseen"],
        total=figures.duration(float(sum(results.seconds.values()))),
        headlines=[_headline(results.retrieval, gallery, encoder) for gallery in ("same", "cross")],
        groups=list(_table_groups(results)),
        structure=_structure(results),
        accuracy_tau=results.accuracy_tau,
        invariance_error=results.invariance_error,
        examples=[example for example in examples if not example.worst],
        worst=[example for example in examples if example.worst],
        problems=problems,
        config=config,
        encoder=encoder,
    )
    write_atomically(Path(path), page.encode())


def _embedded(figure: go.Figure) -> Markup:
    """The figure as JSON that cannot end the script element it stands in."""
    text = str(figure.to_json())
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _headline(retrieval: Retrieval, gallery: str, encoder: str) -> dict[str, Any]:
    """P@10 on unseen tasks of the encoder and of the best other method."""
    values = {name: halves["unseen"][gallery].metrics["precision_at_10"].value for name, halves in retrieval.items()}
    rivals = {name: value for name, value in values.items() if name != encoder and value is not None}
    best = max(rivals, key=lambda name: rivals[name], default=None)
    return {
        "gallery": figures.GALLERY_NAMES[gallery],
        "value": values[encoder],
        "limit": retrieval[encoder]["unseen"][gallery].precision_at_10_limit,
        "rival": best,
        "rival_value": rivals.get(best) if best is not None else None,
    }


def _table_groups(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """Titles and tables: unseen tasks first, and of each half the form with own class orders first."""
    measured = results.forms()
    for half, half_name in HALF_NAMES.items():
        for form, form_name in FORM_NAMES.items():
            if form in measured:
                tables = [_table(measured[form], half, gallery) for gallery in figures.GALLERY_NAMES]
                yield f"{half_name}, {form_name}", tables


def _table(retrieval: Retrieval, half: str, gallery: str) -> Table:
    scores = {method: halves[half][gallery] for method, halves in retrieval.items()}
    first = next(iter(scores.values()))
    limit = first.precision_at_10_limit
    caption = (
        f"Gallery: {figures.GALLERY_NAMES[gallery]} ({first.queries} queries; {first.left_out} left "
        "out, as no model there has their task"
        + (")" if limit is None else f"; the best possible P@10 is {limit:.3f})")
    )
    rows = [(method, [own.metrics[metric] for metric in METRIC_NAMES]) for method, own in scores.items()]
    return Table(caption, list(METRIC_NAMES.values()), rows, _best(rows))


def _structure(results: Results) -> Table:
    """Clustering scores and hubness on unseen tasks."""
    columns = {
        ("task", "nmi"): "task NMI",
        ("task", "ari"): "task ARI",
        ("task", "silhouette"): "task silhouette",
        ("architecture", "nmi"): "architecture NMI",
        ("architecture", "ari"): "architecture ARI",
        ("architecture", "silhouette"): "architecture silhouette",
    }
    rows = []
    for method, halves in results.clustering.items():
        cells = [getattr(halves["unseen"][partition], score) for partition, score in columns]
        rows.append((method, [*cells, results.hubness[method]["unseen"]]))
    caption = "Unseen tasks. Brackets: least and greatest over the encoder seeds."
    return Table(caption, [*columns.values(), "hubness (skewness of N₁₀)"], rows, _best(rows)[:TASK_COLUMNS])


def _best(rows: list[tuple[str, list[Interval]]]) -> list[float | int | None]:
    """The greatest value of each column."""
    columns = zip(*(cells for _, cells in rows), strict=True)
    return [max((cell.value for cell in cells if cell.value is not None), default=None) for cells in columns]
