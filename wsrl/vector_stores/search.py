"""Answers a question from a vector store: asks for the nearest, and for more until enough fulfill the conditions."""

import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from wsrl.errors import InputError
from wsrl.search.conditions import fulfilling, order
from wsrl.search.hit import Hit
from wsrl.search.near_groups import FAMILY
from wsrl.search.question import Explanation, Request
from wsrl.vector_stores.row import Row
from wsrl.vector_stores.row_facts import RowFacts, bounds_of
from wsrl.vector_stores.vector_store import VectorStore

SPARE = 16  # rows asked for beyond the hits
MORE = 4  # times as many are asked for where too few fulfill the conditions


def answer(store: VectorStore, name: str, question: Request) -> tuple[list[Hit], Explanation]:
    """Returns hits, best first unless an order is asked for, and how they were found.

    The mean of several queries' cosines is the product with their mean vector, which is what the store is asked for.
    What it cannot decide itself is decided here, of as many of the nearest as that takes.

    Args:
      store: see there.
      name: of the collection.
      question: its `exclude` names ids.

    Raises:
      InputError: a query has no function vector where one is asked for, or an option is wrong.
    """
    start = time.perf_counter()
    models, functions = store.counts(name)
    kind = _kind(question, store.address, functions)
    vectors = [row.function if kind == "function" else row.weights for row in question.queries]
    mean = np.stack([vector for vector in vectors if vector is not None]).mean(0).astype(np.float32)
    same = _same_weights(store, name, question, kind)
    facts = {row.key for row in same}
    bounds, count = bounds_of(question.where), question.k + SPARE
    with_vectors = bool(question.against) or question.group_by == FAMILY
    if question.exact and not store.exact:
        raise InputError("exact", f"{store.kind} has no exact search", "leave it out, or use a file or an index folder")
    while True:
        count = min(count, store.most)
        found = store.nearest(name, kind, mean, count, bounds, with_vectors, question.exact)
        others = [(row, score) for row, score in found if row.key not in facts]
        ranked = _first([*((row, 1.0) for row in same), *_left(others, question, kind)], question)
        if len(ranked) >= question.k or len(found) < count or count == store.most:
            break
        count *= MORE
    hits = [_hit(rank, row, score, kind, row.key in facts) for rank, (row, score) in enumerate(ranked, 1)]
    if question.sort is not None:
        places = order(question.sort, RowFacts([row for row, _ in ranked]), range(len(hits)))
        hits = [hits[place] for place in places]
    having = functions if kind == "function" else models
    seconds = time.perf_counter() - start
    return hits, Explanation(kind, store.kind, having, having, len(found), 0, seconds)


def _kind(question: Request, address: str, functions: int) -> str:
    asked = [*question.queries, *question.against]
    lacking = [row for row in asked if row.function is None]
    if question.by == "function" and lacking:
        raise InputError(lacking[0].id, f"has no function vector ({lacking[0].no_function})", "search by weights")
    if question.by == "function" and not functions:
        raise InputError(address, "holds no model with a function vector", "search by weights")
    auto = question.by == "auto" and not lacking and functions > 0
    return "function" if question.by == "function" or auto else "weights"


def _same_weights(store: VectorStore, name: str, question: Request, kind: str) -> list[Row]:
    """Rows of the weights of the one query, the query first: they come first in any case."""
    if len(question.queries) != 1 or not question.queries[0].weights_digest:
        return []
    asked = question.queries[0]
    if asked.weights_digest in {row.weights_digest for row in question.against}:
        return []
    found = store.of_digest(name, "weights_digest", asked.weights_digest)
    found.sort(key=lambda row: (row.model.id != asked.id, row.model.id))
    if kind == "function" and question.by == "function":
        found = [row for row in found if row.has_function]
    return [row for row, _ in _left([(row, 1.0) for row in found], replace(question, against=()), kind)]


def _left(pairs: list[tuple[Row, float]], question: Request, kind: str) -> list[tuple[Row, float]]:
    """Those that may be hits."""
    pairs = [pair for pair in pairs if pair[0].model.id not in question.exclude]
    if question.where:
        mask = fulfilling(question.where, RowFacts([row for row, _ in pairs]), len(pairs))
        pairs = [pair for pair, own in zip(pairs, mask, strict=True) if own]
    if question.architecture != "any":
        asked = {row.architecture for row in question.queries}
        pairs = [p for p in pairs if (p[0].model.architecture in asked) == (question.architecture == "same")]
    if question.against:
        counter = np.stack([_vector(row.weights, row.function, kind) for row in question.against])
        pairs = [(row, s) for row, s in pairs if (counter @ _vector(row.weights, row.function, kind)).max() < s]
    return pairs


def _vector(weights: np.ndarray | None, function: np.ndarray | None, kind: str) -> Float32[np.ndarray, " dim"]:
    own = function if kind == "function" else weights
    assert own is not None
    return own


def _first(pairs: list[tuple[Row, float]], question: Request) -> list[tuple[Row, float]]:
    """The first k, of each group no more than may be."""
    if question.group_by is None:
        return pairs[: question.k]
    asked = question.queries[0].weights
    rows = [row if row.weights is not None else replace(row, weights=asked) for row, _ in pairs]  # of equal weights
    groups = RowFacts(rows).groups(question.group_by)
    counts: Counter[Hashable] = Counter()
    found = []
    for place, pair in enumerate(pairs):
        group = groups.of(place)
        counts[group] += 1
        if group is None or counts[group] <= question.per_group:
            found.append(pair)
        if len(found) == question.k:
            break
    return found


def _hit(rank: int, row: Row, score: float, kind: str, same: bool) -> Hit:
    model = row.model
    return Hit(
        rank, model.id, min(max(score, 0.0), 1.0), kind, model.architecture, model.parameters, model.accuracy, same,
        model.path, model.metadata,
    )  # fmt: skip
