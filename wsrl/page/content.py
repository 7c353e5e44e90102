"""What the page shows of an index, as plain data."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.page.positions import positions
from wsrl.search.hit import Hit
from wsrl.search.index import Index

VERSION = 1  # of the form of the content
NEIGHBORS = 10  # shown of each model
LONGEST = 200  # characters of a text


def page_content(
    index: Index, by: str = "weights", neighbors: bool = True, progress: bool = False
) -> dict[str, object]:
    """Collects what the page shows.

    Args:
      index: the models.
      by: the vectors that the map and the neighbors rest on; models without a function vector are left out of a page by
        `function`.
      neighbors: find the neighbors of every model; a page that is served asks for them when they are looked at.
      progress: show a progress line on stderr.

    Returns:
      `version`; `title`; `by`; `columns` {name: "number" or "text"}; `layers`, a list of lists [name, numbers];
      `models`, a list of {`id`, `x`, `y` from 0 to 1, `fields` {column: value}, `layers`: place in the list of layers,
      `neighbors`: a list of {`id`, `score`, `same`}}.

    Raises:
      InputError: fewer than five different vectors, or scikit-learn is not installed.
    """
    rows = [row for row in map(index.get, index.ids) if by == "weights" or row.function is not None]
    places = positions(_vectors(rows, by)) if rows else None
    if places is None:
        raise InputError(index.directory, f"fewer than five different models by {by}, too few for a map", "index more")
    places -= places.min(axis=0)
    places /= places.max()  # both axes by one number, so that distances stay as they are
    layers: dict[tuple[tuple[str, int], ...], int] = {}
    models: list[dict[str, object]] = []
    shown = None if progress else True  # None: unless stderr is no terminal
    for row, (x, y) in tqdm(zip(rows, places.tolist(), strict=True), "neighbors", len(rows), disable=shown):
        own = model_layers(row)
        models.append(
            {
                "id": row.id,
                "x": round(x, 4),
                "y": round(y, 4),
                "fields": model_fields(row, index.metadata(row.id)),
                "layers": layers.setdefault(own, len(layers)),
                "neighbors": _neighbors(index, row, by) if neighbors else None,
            }
        )
    return {
        "version": VERSION,
        "title": Path(index.directory).name,
        "by": by,
        "columns": _columns(model["fields"] for model in models),  # pyright: ignore[reportArgumentType]
        "layers": list(layers),
        "models": models,
    }


def model_fields(row: Embedded, metadata: Mapping[str, object]) -> dict[str, object]:
    """Returns what is known of a model and can be shown in a cell: numbers, texts, and true or false as texts."""
    known: dict[str, object] = {"architecture": row.architecture or "unknown", "parameters": row.parameters}
    if row.accuracy is not None:
        known["predicted accuracy"] = round(row.accuracy, 4)
    for key, value in metadata.items():
        if isinstance(value, bool):
            known[key] = str(value).lower()
        elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            known[key] = value
        elif isinstance(value, str) and value:
            known[key] = value[:LONGEST]
    return known


def model_layers(row: Embedded) -> tuple[tuple[str, int], ...]:
    """Returns the tensors that have a signature, each with the number of its entries."""
    return tuple((name, round(math.exp(values[0]))) for name, values in row.tensors.items())


def neighbor(hit: Hit) -> dict[str, object]:
    """Returns what the page shows of a hit."""
    return {"id": hit.id, "score": round(hit.score, 4), "same": hit.same_weights}


def _neighbors(index: Index, row: Embedded, by: str) -> list[dict[str, object]]:
    hits = index.search(row, NEIGHBORS + 1, by)
    return [neighbor(hit) for hit in hits if hit.id != row.id][:NEIGHBORS]


def _vectors(rows: list[Embedded], by: str) -> Float32[np.ndarray, "n dim"]:
    return np.stack([row.weights if by == "weights" or row.function is None else row.function for row in rows])


def _columns(fields: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """A column is of numbers if all its values are."""
    kinds: dict[str, str] = {}
    for own in fields:
        for key, value in own.items():
            if kinds.get(key) != "text":
                kinds[key] = "text" if isinstance(value, str) else "number"
    return kinds
