"""How good a start for fine-tuning a model is, told from its weights: a ridge regression on measured linear probes.

Models of a zoo are probed on tasks that they were not trained on: a linear head on their features, as they are. Their
accuracies, less the mean of each task, are regressed on principal components of the models' embeddings, on their sizes,
and on how near they lie to the data. At a query no model is run.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, Float32

from wsrl.encoder.files import encoder_directory
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.graph.size import SIZES
from wsrl.recommendation.probes import Query

FILE = "start_score.safetensors"
COMPONENTS = 8  # of the embeddings
PENALTY = 0.1  # of the ridge regression, on features of unit variance
SMALL = 1e-6  # least deviation of a feature


class StartScore(NamedTuple):
    """A linear function of a model's features, which are the components of its embedding, its size and its nearness.

    Attributes:
      centre, components: of the embeddings.
      weights: of the features.
    """

    centre: Float32[np.ndarray, "dim"]
    components: Float32[np.ndarray, "dim components"]
    weights: Float32[np.ndarray, "features"]


def fit_start_score(
    embedding: Float[np.ndarray, "models dim"],
    sizes: Float[np.ndarray, "models 3"],
    similarity: Float[np.ndarray, "tasks models"],
    accuracy: Float[np.ndarray, "tasks models"],
) -> StartScore:
    """Fits a score to accuracies; a task's mean accuracy, which no choice among models changes, is taken off.

    Args:
      embedding: unit vectors.
      sizes: from `wsrl.graph.size.network_size`.
      similarity: cosine of each model to each task's data.
      accuracy: of a linear probe, 0 to 1; NaN where it was not measured.
    """
    centre = embedding.mean(0)
    axes = np.linalg.svd(embedding - centre, full_matrices=False)[2]
    unfitted = StartScore(centre.astype(np.float32), axes[:COMPONENTS].T.astype(np.float32), np.zeros(0, np.float32))
    rows, wanted = [], []
    for nearness, own in zip(similarity, accuracy, strict=True):
        measured = np.isfinite(own)
        features = _features(unfitted, embedding, sizes, nearness)[measured]
        rows.append(features - features.mean(0))
        wanted.append(own[measured] - own[measured].mean())
    x, y = np.concatenate(rows), np.concatenate(wanted)
    deviation = np.maximum(x.std(0), SMALL)
    x /= deviation
    weights = np.linalg.solve(x.T @ x / len(x) + PENALTY * np.eye(x.shape[1]), x.T @ y / len(x)) / deviation
    return unfitted._replace(weights=weights.astype(np.float32))


def predict_start(
    score: StartScore,
    embedding: Float[np.ndarray, "models dim"],
    sizes: Float[np.ndarray, "models 3"],
    query: Query,
) -> Float[np.ndarray, "models"]:
    """Accuracy of a linear probe on the query's data, above the mean of these models; no model is run."""
    found = _features(score, embedding, sizes, query.similarities(embedding)) @ score.weights
    return found - found.mean()


def _features(
    score: StartScore, embedding: np.ndarray, sizes: np.ndarray, similarity: np.ndarray
) -> Float[np.ndarray, "models features"]:
    # nearness is relative to the other models, since similarities to probe models and to data differ in scale
    nearness = (similarity - similarity.mean()) / max(similarity.std(), SMALL)
    return np.column_stack([(embedding - score.centre) @ score.components, sizes, nearness])


def save_start_score(directory: Path, score: StartScore, encoder_hash: str) -> None:
    """Writes `start_score.safetensors` beside an encoder's files."""
    tensors = {name: np.ascontiguousarray(value) for name, value in score._asdict().items()}  # or it is written wrong
    content = safetensors.numpy.save(tensors, {"encoder_hash": encoder_hash})
    write_atomically(directory / FILE, content)


def load_start_score(directory: Path, encoder_hash: str) -> StartScore:
    """Reads what `save_start_score` wrote.

    Args:
      directory: see `encoder_directory`.
      encoder_hash: of the encoder beside it.

    Raises:
      InputError: the file is missing, not readable, of another version, or was fitted to another encoder.
    """
    path = encoder_directory(directory) / FILE
    try:
        with safetensors.safe_open(path, "numpy") as file:
            fitted_to = (file.metadata() or {}).get("encoder_hash")
            score = StartScore(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, TypeError, safetensors.SafetensorError) as error:
        fix = "run the main job on a zoo that it trains, with starts.tasks above 0"
        raise InputError(path, f"no readable start score ({error})", fix) from error
    if score.weights.shape != (score.components.shape[1] + SIZES + 1,):
        raise InputError(path, "is of another version of wsrl", "run the main job again")
    if fitted_to != encoder_hash:
        raise InputError(path, "was fitted to another encoder", "run the main job again")
    return score
