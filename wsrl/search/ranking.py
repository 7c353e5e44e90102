"""The best of what was compared, and the first of each group."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

from wsrl.search.near_groups import NearGroups
from wsrl.search.question import Question


def best_rows(
    rows: Int64[np.ndarray, " p"],
    scores: Float[np.ndarray, "q p"],
    against: Float[np.ndarray, "a p"] | None,
    allowed: Bool[np.ndarray, " p"],
) -> tuple[Int64[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """Returns rows by the mean of their scores, best first, but those that a counter-example is as near to."""
    own = scores.mean(0)
    kept = allowed & (own > -np.inf)
    if against is not None:
        kept &= against.max(0) < own
    best = np.argsort(-own[kept], kind="stable")
    return rows[kept][best], own[kept][best]


def first_places(ranked: Sequence[tuple[int, float]], question: Question) -> list[tuple[int, float]]:
    """Returns the first k, of each group no more than may be."""
    if question.groups is None:
        return list(ranked[: question.k])
    found: list[tuple[int, float]] = []
    counts: dict[Hashable, int] = {}
    if isinstance(question.groups, NearGroups):
        question.groups.read([place for place, _ in ranked])
    for place, score in ranked:
        group = question.groups.of(place)
        if group is not None:
            counts[group] = counts.get(group, 0) + 1
            if counts[group] > question.per_group:
                continue
        found.append((place, score))
        if len(found) == question.k:
            break
    return found
