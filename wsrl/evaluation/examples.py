"""Queries with their hits, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wsrl.evaluation.ranking import cosine_similarity, rank_gallery
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import query_scores
from wsrl.zoo.manifest import Record


@dataclass(frozen=True)
class QueryExample:
    """A query and its nearest models outside its own lineage.

    Attributes:
      query: the model asked with.
      hits: (model, cosine similarity, same task) of each hit, best first.
      average_precision: of the query's whole ranking, 0 to 1.
      worst: chosen for its bad ranking, not by chance.
    """

    query: Record
    hits: list[tuple[Record, float, bool]]
    average_precision: float
    worst: bool


def query_examples(
    embeddings: Float[np.ndarray, "n dim"],
    records: Sequence[Record],
    drawn: int = 6,
    worst: int = 3,
    hits: int = 5,
    seed: int = 0,
) -> list[QueryExample]:
    """Queries drawn by chance, each of another task while there are tasks left, then the worst of all by AP.

    Only queries count that some model of another lineage could answer; the gallery is any architecture. The
    worst queries are of different tasks as well, so that one hard task does not fill the list.
    """
    relevance = Relevance.of(records)
    scores = query_scores(embeddings, relevance, seed)["any"]["map"]
    answerable = np.flatnonzero(np.isfinite(scores))
    shuffled = np.random.default_rng(seed).permutation(answerable)
    bad = shuffled[np.argsort(scores[shuffled], kind="stable")]
    chosen_worst = _one_a_task(bad, relevance.task)[:worst]
    chosen = _one_a_task(shuffled[~np.isin(shuffled, chosen_worst)], relevance.task)[:drawn]
    examples = []
    for queries, is_worst in ((chosen, False), (chosen_worst, True)):
        similarity = cosine_similarity(embeddings[queries], embeddings)
        order = rank_gallery(similarity, seed)
        eligible = relevance.eligible(queries)["any"]
        relevant = relevance.relevant(queries)
        for row, query in enumerate(queries):
            best = order[row][eligible[row, order[row]]][:hits]
            listed = [(records[hit], float(similarity[row, hit]), bool(relevant[row, hit])) for hit in best]
            examples.append(QueryExample(records[query], listed, float(scores[query]), is_worst))
    return examples


def _one_a_task(models: np.ndarray, task: np.ndarray) -> np.ndarray:
    """The models in their order, but the first one of every task before the second of any."""
    seen: dict[int, int] = {}
    turn = []
    for model in models:
        turn.append(seen.get(int(task[model]), 0))
        seen[int(task[model])] = turn[-1] + 1
    return models[np.argsort(turn, kind="stable")]
