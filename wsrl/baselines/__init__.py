"""Features of other ways to search a zoo, [n, d] float32 each, compared by cosine similarity."""

from wsrl.baselines.chance import chance_features
from wsrl.baselines.metadata import CARD, HYPERPARAMETERS, metadata_features
from wsrl.baselines.raw_weights import raw_weight_features
from wsrl.baselines.statistics import statistics_features

__all__ = [
    "CARD",
    "HYPERPARAMETERS",
    "chance_features",
    "metadata_features",
    "raw_weight_features",
    "statistics_features",
]
