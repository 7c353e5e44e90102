"""Ranks the models of an index for a query."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64, Int64

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.forward.kind import is_run_by_operators
from wsrl.search.file_identity import located
from wsrl.search.hit import Hit
from wsrl.search.nearest import BRUTE_FORCE_BELOW, NearestNeighbors
from wsrl.search.query_expansion import QueryExpansion
from wsrl.search.question import Explanation, Question
from wsrl.search.store import Store


class Searcher:
    """One state of an index, with what searching it needs; that is made when it is first used."""

    def __init__(self, store: Store):
        self.store = store

    @cached_property
    def place(self) -> dict[str, int]:
        """Places of the models by their ids."""
        return {name: place for place, name in enumerate(self.store.ids)}

    @cached_property
    def _functional(self) -> set[int]:
        return set(self.store.has_function.tolist())

    @cached_property
    def _kinds(self) -> set[bool]:
        """Whether models were run by their operators, of those that have a function vector."""
        return {is_run_by_operators(self.store.architectures[place]) for place in self._functional}

    @cached_property
    def _nearest(self) -> NearestNeighbors:
        return NearestNeighbors.build(self.store.weights, self.store.ids)

    @cached_property
    def _expansion(self) -> QueryExpansion:
        kinds = [self.store.architectures[place] for place in self.store.has_function]
        return QueryExpansion.build(self.store.functions, kinds, near=self.store.neighbors, factors=self.store.factors)

    @cached_property
    def _accuracies(self) -> Float64[np.ndarray, " m"]:
        """Predicted accuracies of the models that have a function vector; NaN where there is none."""
        known = self.store.catalog.column("accuracy")
        return np.array([known[place] for place in self.store.has_function], float)

    def _smoothed_accuracies(self, places: Sequence[int]) -> dict[int, float]:
        """Predicted accuracies of models by place, smoothed over their neighbors."""
        functional = np.flatnonzero(np.isin(self.store.has_function, places))
        if not len(functional):
            return {}
        known = np.isfinite(self._accuracies)
        own = self._accuracies[functional]
        if known.any():  # networks that were run by their operators have none, and no neighbors among the others
            filled = np.where(known, self._accuracies, self._accuracies[known].mean())
            own = np.where(known[functional], self._expansion.smoothed(filled, functional), np.nan)
        found = zip(self.store.has_function[functional].tolist(), own.tolist(), strict=True)
        return {place: value for place, value in found if np.isfinite(value)}

    def uses_function(self, asked: Iterable[Embedded], by: str) -> bool:
        """Whether a search rests on the function vectors.

        Raises:
          InputError: it is to rest on them, and there are none that compare with the queries'.
        """
        asked = list(asked)
        there = {is_run_by_operators(row.architecture) for row in asked} <= self._kinds
        lacking = [row for row in asked if row.function is None]
        if by == "function" and lacking:
            raise InputError(lacking[0].id, f"has no function vector ({lacking[0].no_function})", "search by weights")
        if by == "function" and not there:
            reason = "holds no model with a function vector" + " of the query's kind" * bool(self._kinds)
            raise InputError(self.store.directory, reason, "search by weights")
        return by == "function" or (by == "auto" and not lacking and there)

    def search(self, question: Question) -> tuple[list[Hit], Explanation]:
        """Returns hits, best first, and how they were found; see `wsrl.search.index.Index.search`."""
        start = time.perf_counter()
        functional = self.uses_function([*question.queries, *question.against], question.by)
        name = "function" if functional else "weights"
        having = self.store.has_function if functional else np.arange(len(self.store.ids))
        allowed = np.ones(len(having), bool) if question.left_out is None else ~question.left_out[having]
        if question.among is not None:
            allowed &= question.among[having]
        index = "exact"
        if question.plain and len(having) >= BRUTE_FORCE_BELOW:
            rows, scores, index, compared = self._nearest_to(question.queries[0], question.k, functional)
        else:
            all_scores = self._scores(question, functional)
            rows = np.flatnonzero(allowed & (all_scores > -np.inf))
            rows = rows[np.argsort(-all_scores[rows], kind="stable")]
            scores, compared = all_scores[rows], len(having)
        same = self._same_weights(question)
        first = same if len(question.queries) == 1 else []
        if functional and question.by == "function":
            first = [place for place in first if place in self._functional]
        if question.groups is None:
            rows, scores = rows[: question.k + len(first)], scores[: question.k + len(first)]
        others = [pair for pair in zip(having[rows].tolist(), scores.tolist(), strict=True) if pair[0] not in first]
        ranked = _first([*((place, 1.0) for place in first), *others], question)
        accuracies = self._smoothed_accuracies([place for place, _ in ranked])
        hits = [
            self._hit(rank, place, score, name, place in same, accuracies.get(place))
            for rank, (place, score) in enumerate(ranked, 1)
        ]
        seconds = time.perf_counter() - start
        return hits, Explanation(name, index, len(having), int(allowed.sum()), compared, 0, seconds)

    def _nearest_to(
        self, asked: Embedded, k: int, functional: bool
    ) -> tuple[Int64[np.ndarray, " k"], Float[np.ndarray, " k"], str, int]:
        """Rows and scores of the nearest, what found them, and how many vectors were compared."""
        if functional:
            self._check(asked.function, self.store.functions)
            assert asked.function is not None
            index = self._expansion.index()
            rows, scores = self._expansion.search(asked.function, asked.architecture, k)
        else:
            self._check(asked.weights, self.store.weights)
            index = self._nearest
            found, all_scores = index.search(asked.weights[None], k)
            rows, scores = found[0], all_scores[0]
        return rows, scores, index.backend, index.compared(k)

    def _scores(self, question: Question, functional: bool) -> Float[np.ndarray, " m"]:
        """Scores of all models that have such a vector; minus infinity for those that a counter-example is as near."""
        own = self._similarities(question.queries, question, functional).mean(0)
        if question.against:
            nearer = self._similarities(question.against, question, functional).max(0) >= own
            own = np.where(nearer, -np.inf, own)
        return own

    def _similarities(
        self, asked: Sequence[Embedded], question: Question, functional: bool
    ) -> Float[np.ndarray, "q m"]:
        if not functional:
            for row in asked:
                self._check(row.weights, self.store.weights)
            return np.stack([self.store.weights @ row.weights for row in asked])
        for row in asked:
            self._check(row.function, self.store.functions)
        own = np.stack([row.function for row in asked if row.function is not None])
        out = None if question.left_out is None else question.left_out[self.store.has_function]
        exclude = None if out is None else np.tile(out, (len(own), 1))
        return self._expansion.similarities(own, [row.architecture for row in asked], exclude)

    def _same_weights(self, question: Question) -> list[int]:
        """Places of the models of a query's weights, but not a counter-example's; the query first, if it is there."""
        places = []
        against = {other.weights_digest for other in question.against}
        for asked in question.queries:
            digest = asked.weights_digest
            names = self.store.catalog.same_weights(digest) if digest and digest not in against else ()
            places += [place for _, place in sorted((name != asked.id, self.place[name]) for name in names)]
        return [
            place
            for place in dict.fromkeys(places)
            if (question.left_out is None or not question.left_out[place])
            and (question.among is None or question.among[place])
        ]

    def _check(self, own: Float[np.ndarray, " dim"] | None, vectors: Float[np.ndarray, "n other"]) -> None:
        if own is None or len(own) != vectors.shape[1] or not np.isfinite(own).all():
            dims = 0 if own is None else len(own)
            reason = f"a vector of {dims} dimensions does not fit {vectors.shape[1]}, or is not finite"
            raise InputError("query", reason, "embed it with the encoder of the index")

    def _hit(self, rank: int, place: int, score: float, by: str, same: bool, accuracy: float | None) -> Hit:
        catalog = self.store.catalog
        model = catalog.get(self.store.ids[place])
        assert model is not None
        return Hit(
            rank=rank,
            id=model.id,
            score=min(max(score, 0.0), 1.0),
            by=by,
            architecture=model.architecture,
            parameters=model.parameters,
            accuracy=accuracy,
            same_weights=same,
            path=located(self.store.directory, model.path),
            metadata={**model.metadata, **catalog.annotations(model.id)},
        )


def _first(ranked: Sequence[tuple[int, float]], question: Question) -> list[tuple[int, float]]:
    """The first k, of each group no more than may be."""
    if question.groups is None:
        return list(ranked[: question.k])
    found: list[tuple[int, float]] = []
    counts: Counter = Counter()
    for place, score in ranked:
        group = question.groups[place]
        counts[group] += 1
        if group is None or counts[group] <= question.per_group:
            found.append((place, score))
        if len(found) == question.k:
            break
    return found
