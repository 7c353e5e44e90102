"""Retrieval, clustering and accuracy scores of model embeddings."""

from wsrl.evaluation.accuracy import accuracy_tau
from wsrl.evaluation.clustering import clustering_scores
from wsrl.evaluation.examples import QueryExample, query_examples
from wsrl.evaluation.hubness import hubness
from wsrl.evaluation.interval import Interval
from wsrl.evaluation.results import Results, evaluate_methods, write_results
from wsrl.evaluation.retrieval import METRICS, retrieval_scores

__all__ = [
    "METRICS",
    "Interval",
    "QueryExample",
    "Results",
    "accuracy_tau",
    "clustering_scores",
    "evaluate_methods",
    "hubness",
    "query_examples",
    "retrieval_scores",
    "write_results",
]
