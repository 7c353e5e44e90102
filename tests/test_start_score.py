import numpy as np
import pytest

from wsrl.errors import InputError
from wsrl.recommendation.probes import Query
from wsrl.recommendation.start_score import FILE, fit_start_score, load_start_score, predict_start, save_start_score

MODELS, TASKS, DIM = 120, 10, 16


@pytest.fixture(scope="module")
def measured():
    """Accuracies that the first direction of embeddings, the size and the nearness decide, and a mean for each task."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(MODELS, DIM)) * np.geomspace(3, 0.1, DIM)
    embedding = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    sizes = np.column_stack([rng.normal(9, 1, MODELS), rng.integers(2, 6, MODELS), rng.normal(3, 1, MODELS)])
    similarity = rng.normal(0.1, 0.2, (TASKS, MODELS))
    good = 0.2 * embedding[:, 0] + 0.05 * sizes[:, 0]
    accuracy = good + 0.1 * similarity + rng.normal(size=(TASKS, 1)) + rng.normal(0, 0.01, (TASKS, MODELS))
    accuracy[rng.random(accuracy.shape) < 0.2] = np.nan
    return embedding.astype(np.float32), sizes, similarity, accuracy, good


def query(embedding, near):
    """A query that is nearest to one of the models."""
    return Query(embedding[[near]].astype(np.float32), ["data"], None)


def test_what_decides_the_accuracies_is_found(measured):
    embedding, sizes, similarity, accuracy, good = measured
    score = fit_start_score(embedding, sizes, similarity, accuracy)
    found = predict_start(score, embedding, sizes, query(embedding, 5))
    assert found.mean() == pytest.approx(0, abs=1e-5)
    assert np.corrcoef(found, good)[0, 1] > 0.95
    # of two models that are alike otherwise, the nearer one is the better start
    twice = np.concatenate([embedding, -embedding])
    found = predict_start(
        score._replace(components=score.components * 0), twice, np.tile(sizes, (2, 1)), query(twice, 5)
    )
    assert found[5] > found[5 + MODELS]


def test_a_mean_of_the_task_changes_nothing(measured):
    embedding, sizes, similarity, accuracy, _ = measured
    first = fit_start_score(embedding, sizes, similarity, accuracy)
    second = fit_start_score(embedding, sizes, similarity * 3 + 1, accuracy + np.arange(TASKS)[:, None])
    np.testing.assert_allclose(first.weights, second.weights, atol=1e-4)


def test_round_trip_and_refusals(measured, tmp_path):
    embedding, sizes, similarity, accuracy, _ = measured
    score = fit_start_score(embedding, sizes, similarity, accuracy)
    with pytest.raises(InputError, match="no readable start score"):
        load_start_score(tmp_path, "hash")
    save_start_score(tmp_path, score, "hash")
    for wanted, found in zip(score, load_start_score(tmp_path, "hash"), strict=True):
        np.testing.assert_array_equal(wanted, found)
    with pytest.raises(InputError, match="another encoder"):
        load_start_score(tmp_path, "other")
    save_start_score(tmp_path, score._replace(weights=score.weights[1:]), "hash")
    with pytest.raises(InputError, match="another version of wsrl"):
        load_start_score(tmp_path, "hash")
    content = (tmp_path / FILE).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\xff" * 100):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(InputError, match="no readable start score"):
            load_start_score(tmp_path, "hash")
