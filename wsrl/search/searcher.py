"""Ranks the models of an index for a query."""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.forward.kind import is_run_by_operators
from wsrl.search.file_identity import located
from wsrl.search.hit import Hit
from wsrl.search.masks import OfLastMask, sealed
from wsrl.search.near_groups import CLOSE
from wsrl.search.query_expansion import QueryExpansion
from wsrl.search.question import Explanation, Mask, Question
from wsrl.search.ranking import best_rows, first_places
from wsrl.search.segment import BRUTE_FORCE_BELOW
from wsrl.search.segments import Segments
from wsrl.search.store import Store
from wsrl.search.vectors import weights_segments, wide_expansion
from wsrl.search.wide_expansion import WideExpansion


class Found(NamedTuple):
    """Rows among the models that have such a vector and their scores, best first; for the rest see `Explanation`."""

    rows: Int64[np.ndarray, " r"]
    scores: Float[np.ndarray, " r"]
    index: str
    compared: int
    unindexed: int


class Searcher:
    """One state of an index, with what searching it needs; that is made when it is first used.

    Args:
      store: the state.
      before: of an earlier state of the same index: what has not changed is taken over.
    """

    def __init__(self, store: Store, before: "Searcher | None" = None):
        self.store = store
        made = before.__dict__ if before else {}
        self._before: Segments | None = made.get("_segments")
        known: dict[str, int] = made.get("place", {})
        self._known = known if before and store.ids[: len(known)] == before.store.ids else {}

    @cached_property
    def place(self) -> dict[str, int]:
        """Places of the models by their ids."""
        known, self._known = self._known, {}
        return known | {name: place for place, name in enumerate(self.store.ids[len(known) :], len(known))}

    @cached_property
    def _every(self) -> Int64[np.ndarray, " n"]:
        return np.arange(len(self.store.ids))

    @cached_property
    def _functional(self) -> set[int]:
        return set(self.store.has_function.tolist())

    @cached_property
    def _by_operators(self) -> Bool[np.ndarray, " m"]:
        """Whether each model that has a function vector was run by its operators; the two kinds do not compare."""
        kinds = [is_run_by_operators(self.store.architectures[place]) for place in self.store.has_function]
        return np.array(kinds, bool)

    @cached_property
    def _kinds(self) -> set[bool]:
        return {*np.unique(self._by_operators).tolist()}

    @cached_property
    def _segments(self) -> Segments:
        return weights_segments(self.store, self._before)

    @cached_property
    def _wide(self) -> WideExpansion:
        return wide_expansion(self.store)

    @cached_property
    def _expansion(self) -> QueryExpansion:
        kinds = [self.store.architectures[place] for place in self.store.has_function]
        return QueryExpansion.build(self.store.functions, kinds, near=self.store.neighbors, factors=self.store.factors)

    @property
    def _smoother(self) -> QueryExpansion | WideExpansion:
        return self._expansion if len(self.store.has_function) < BRUTE_FORCE_BELOW else self._wide

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
            own = np.where(known[functional], self._smoother.smoothed(filled, functional), np.nan)
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
        having = self.store.has_function if functional else self._every
        allowed = self._allowed(question, functional)
        may_be = int(np.count_nonzero(allowed))
        self._check_all(question, functional)
        same = self._same_weights(question)
        close = self._close_by_weights(question, having, allowed) if functional else {}
        first = dict.fromkeys(same, 1.0) if len(question.queries) == 1 else {}
        if functional and question.by == "function":
            first = {place: 1.0 for place in first if place in self._functional}
        close = {place: cosine for place, cosine in close.items() if place not in first}
        first |= close
        if functional and len(having) < BRUTE_FORCE_BELOW:
            found = self._all_scores(question, allowed)
        else:
            beside = question.groups.members([*first]) if question.groups else len(first)
            found = self._pool_scores(question, functional, allowed, question.k + beside)
        ranked = self._ranked(question, having, found, first)
        while len(ranked) < question.k and question.groups and len(found.rows) < may_be:
            seen = question.groups.members([*first, *having[found.rows].tolist()])  # beyond them are other groups
            wanted = max(question.k + seen, 2 * len(found.rows))
            found = self._pool_scores(question, functional, allowed, wanted)
            ranked = self._ranked(question, having, found, first)
        accuracies = self._smoothed_accuracies([place for place, _ in ranked])
        hits = [
            self._hit(rank, place, score, "weights" if place in close else name, place in same, accuracies.get(place))
            for rank, (place, score) in enumerate(ranked, 1)
        ]
        seconds = time.perf_counter() - start
        explanation = Explanation(name, found.index, len(having), may_be, found.compared, found.unindexed, seconds)
        return hits, explanation

    def _allowed(self, question: Question, functional: bool) -> Mask:
        """Which models that have the vector may be hits; what conditions leave as it is, if nothing else counts."""
        count = len(self.store.has_function) if functional else len(self.store.ids)
        allowed = np.ones(count, bool)
        if question.among is not None:
            allowed = self._among_functional(question.among) if functional else question.among
        if question.left_out is not None:
            allowed = allowed & ~(question.left_out[self.store.has_function] if functional else question.left_out)
        if functional and len(self._kinds) > 1:
            kinds = [is_run_by_operators(row.architecture) for row in question.queries]
            allowed = allowed & np.isin(self._by_operators, kinds)
        return allowed

    @cached_property
    def _among_functional(self) -> OfLastMask[Mask]:
        return OfLastMask(lambda among: sealed(among[self.store.has_function]))

    def _ranked(
        self, question: Question, having: Int64[np.ndarray, " m"], found: Found, first: Mapping[int, float]
    ) -> list[tuple[int, float]]:
        """Places and scores of the hits: models of the query's weights and near ones first, then the best."""
        rows, scores = found.rows, found.scores
        if question.groups is None:
            rows, scores = rows[: question.k + len(first)], scores[: question.k + len(first)]
        others = [pair for pair in zip(having[rows].tolist(), scores.tolist(), strict=True) if pair[0] not in first]
        return first_places([*first.items(), *others], question)

    def _close_by_weights(self, question: Question, having: Int64[np.ndarray, " m"], allowed: Mask) -> dict[int, float]:
        """Places and cosines of the models that are close to one query by weights, the nearest first.

        Where the function of the query rests on assumptions these can be wrong, and a copy at another precision would
        be missed.
        """
        if question.by != "auto" or len(question.queries) > 1 or question.against or not question.queries[0].assumed:
            return {}
        may = np.zeros(len(self.store.ids), bool)
        may[having[allowed]] = True
        asked = question.queries[0].weights[None]
        places, cosines = self._segments.search(asked, question.k, None if may.all() else may, question.exact)
        near = zip(places[0].tolist(), cosines[0].tolist(), strict=True)
        return {place: cosine for place, cosine in near if place >= 0 and cosine >= CLOSE}

    def _all_scores(self, question: Question, allowed: Mask) -> Found:
        """Compares with all models by function."""

        def similarities(asked: Sequence[Embedded]) -> Float[np.ndarray, "q m"]:
            own = np.stack([row.function for row in asked if row.function is not None])
            out = None if question.left_out is None else question.left_out[self.store.has_function]
            exclude = None if out is None else np.tile(out, (len(own), 1))
            return self._expansion.similarities(own, [row.architecture for row in asked], exclude)

        every = np.arange(len(self.store.has_function))
        against = similarities(question.against) if question.against else None
        rows, scores = best_rows(every, similarities(question.queries), against, allowed)
        return Found(rows, scores, "exact", len(every), 0)

    def _pool_scores(self, question: Question, functional: bool, allowed: Mask, k: int) -> Found:
        """Compares with the models that are nearest to one of the queries, at least k of them."""
        asked = [*question.queries, *question.against]
        may = None if allowed.all() else allowed
        exact = question.exact or len(asked) > 1  # the mean of several has other nearest ones
        if functional:
            segments = self._wide.segments
            vectors = np.stack([row.function for row in asked if row.function is not None])
            queries = self._wide.centered(vectors, [row.architecture for row in asked])
            out = None if question.left_out is None else question.left_out[self.store.has_function]
            rows, scores = self._wide.ranked(queries, k, may, out, question.exact)
        else:
            segments = self._segments
            queries = np.stack([row.weights for row in asked])
            if len(asked) == 1:
                places, cosine = segments.search(queries, k, may, exact)
                rows, scores = places[0][places[0] >= 0], cosine[:, places[0] >= 0]
            else:
                rows, scores = np.arange(len(allowed)), segments.cosines(queries, len(allowed))
        count = len(question.queries)
        rows, scores = best_rows(rows, scores[:count], scores[count:] if question.against else None, allowed[rows])
        exact = exact or not segments.large
        index = "exact" if exact else segments.backend
        compared = len(allowed) if exact else segments.compared(k)
        return Found(rows, scores, index, compared, 0 if exact else segments.unindexed)

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

    def _check_all(self, question: Question, functional: bool) -> None:
        segments = self.store.segments("function" if functional else "weights")
        dimensions = segments[0][1].shape[1] if segments else 0
        for row in (*question.queries, *question.against):
            self._check(row.function if functional else row.weights, dimensions)

    def _check(self, own: Float[np.ndarray, " dim"] | None, dimensions: int) -> None:
        if own is None or len(own) != dimensions or not np.isfinite(own).all():
            dims = 0 if own is None else len(own)
            reason = f"a vector of {dims} dimensions does not fit {dimensions}, or is not finite"
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
