"""Ranks the models of an index for a query."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.search.file_identity import located
from wsrl.search.hit import Hit
from wsrl.search.nearest import BRUTE_FORCE_BELOW, NearestNeighbors
from wsrl.search.query_expansion import QueryExpansion
from wsrl.search.store import Store

Mask = Bool[np.ndarray, " n"]


class Searcher:
    """One state of an index, with what searching it needs; that is made when it is first used."""

    def __init__(self, store: Store):
        self.store = store

    @cached_property
    def place(self) -> dict[str, int]:
        """Places of the models by their ids."""
        return {name: place for place, name in enumerate(self.store.ids)}

    @cached_property
    def _nearest(self) -> NearestNeighbors:
        return NearestNeighbors.build(self.store.weights, self.store.ids)

    @cached_property
    def _expansion(self) -> QueryExpansion:
        kinds = [self.store.architectures[place] for place in self.store.has_function]
        return QueryExpansion.build(self.store.functions, kinds, near=self.store.neighbors)

    @cached_property
    def _accuracies(self) -> Float64[np.ndarray, " m"]:
        """Predicted accuracies of the models that have a function vector; NaN where there is none."""
        known = self.store.catalog.accuracies()
        return np.array([known[place] for place in self.store.has_function], float)

    def _smoothed_accuracies(self, places: Sequence[int]) -> dict[int, float]:
        """Predicted accuracies of models by place, smoothed over their neighbors."""
        functional = np.flatnonzero(np.isin(self.store.has_function, places))
        if not len(functional):
            return {}
        own = self._accuracies[functional]
        if np.isfinite(self._accuracies).all():
            own = self._expansion.smoothed(self._accuracies, functional)
        found = zip(self.store.has_function[functional].tolist(), own.tolist(), strict=True)
        return {place: value for place, value in found if np.isfinite(value)}

    def uses_function(self, asked: Embedded, by: str) -> bool:
        """Whether a search rests on the function vectors.

        Raises:
          InputError: it is to rest on them, and there are none.
        """
        there = len(self.store.has_function) > 0
        if by == "function" and asked.function is None:
            raise InputError(asked.id, f"has no function vector ({asked.no_function})", "search by weights")
        if by == "function" and not there:
            raise InputError(self.store.directory, "holds no model with a function vector", "search by weights")
        return by == "function" or (by == "auto" and asked.function is not None and there)

    def search(self, asked: Embedded, k: int, by: str, left_out: Mask | None, exact: bool) -> list[Hit]:
        """Returns hits, best first; see `wsrl.search.index.Index.search`."""
        functional = self.uses_function(asked, by)
        found = self._by_function if functional else self._by_weights
        places, scores = found(asked, k, left_out, exact)
        same = self._same_weights(asked, left_out)
        if by == "function":
            same = [place for place in same if place in set(self.store.has_function.tolist())]
        others = [pair for pair in zip(places.tolist(), scores.tolist(), strict=True) if pair[0] not in same]
        ranked = [*((place, 1.0) for place in same), *others][:k]
        name = "function" if functional else "weights"
        accuracies = self._smoothed_accuracies([place for place, _ in ranked])
        return [
            self._hit(rank, place, score, name, place in same, accuracies.get(place))
            for rank, (place, score) in enumerate(ranked, 1)
        ]

    def _by_weights(
        self, asked: Embedded, k: int, left_out: Mask | None, exact: bool
    ) -> tuple[Int64[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        vectors = self.store.weights
        self._check(asked.weights, vectors)
        if left_out is None and not exact and len(vectors) >= BRUTE_FORCE_BELOW:
            rows, scores = self._nearest.search(asked.weights[None], k)
            return rows[0], scores[0]
        return _best(vectors @ asked.weights, k, left_out)

    def _by_function(
        self, asked: Embedded, k: int, left_out: Mask | None, exact: bool
    ) -> tuple[Int64[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        own, places = asked.function, self.store.has_function
        assert own is not None
        self._check(own, self.store.functions)
        if left_out is None and not exact and len(places) >= BRUTE_FORCE_BELOW:
            rows, scores = self._expansion.search(own, asked.architecture, k)
        else:
            out = None if left_out is None else left_out[places]
            all_scores = self._expansion.similarities(
                own[None], [asked.architecture], None if out is None else out[None]
            )[0]
            rows, scores = _best(all_scores, k, out)
        return places[rows], scores

    def _same_weights(self, asked: Embedded, left_out: Mask | None) -> list[int]:
        """Places of the models of the query's weights; the query itself first, if it is in the index."""
        names = self.store.catalog.same_weights(asked.weights_digest) if asked.weights_digest else ()
        places = sorted((name != asked.id, self.place[name]) for name in names)
        return [place for _, place in places if left_out is None or not left_out[place]]

    def _check(self, own: Float[np.ndarray, " dim"], vectors: Float[np.ndarray, "n other"]) -> None:
        if len(own) != vectors.shape[1] or not np.isfinite(own).all():
            reason = f"a vector of {len(own)} dimensions does not fit {vectors.shape[1]}, or is not finite"
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


def _best(
    scores: Float[np.ndarray, " n"], k: int, left_out: Mask | None
) -> tuple[Int64[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Places and values of the k highest scores, the first of equal ones first."""
    places = np.arange(len(scores)) if left_out is None else np.flatnonzero(~left_out)
    best = places[np.argsort(-scores[places], kind="stable")[:k]]
    return best, scores[best]
