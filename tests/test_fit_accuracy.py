import jax
import numpy as np
import pytest

from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import Swept
from wsrl.training.fit import init_params
from wsrl.training.fit_accuracy import fit_accuracy
from wsrl.training.sampling import Examples

ENCODER = ResponseEncoder(probes=8, input_shape=(3, 3, 1), dim=4, rank=3, gradient_probes=2, chunk=4)
TRAINING = np.arange(80)


@pytest.fixture(scope="module")
def networks():
    """Networks that are the more accurate the surer they are."""
    rng = np.random.default_rng(0)
    accuracy = rng.uniform(0.3, 0.9, 120).astype(np.float32)
    logits = rng.normal(size=(120, 3, 8)) * 5 * accuracy[:, None, None]
    swept = Swept(logits.astype(np.float32), np.zeros((120, 3, 9), np.float32), np.ones((120, 3), np.float32))
    params = init_params(ENCODER, np.zeros((8, 3, 3, 1), np.float32), 0)
    return swept, accuracy, params


def fitted(networks, **changes):
    swept, accuracy, params = networks
    embedder = Embedder(ENCODER)
    none = np.zeros(120, int)
    examples = Examples(changes.pop("task", none), none, none, changes.pop("accuracy", accuracy), [None] * 120)
    params = fit_accuracy(ENCODER, params, swept, examples, TRAINING, changes.pop("shrinkage", 1.0))
    return params, embedder.read(params, swept).accuracy


def test_accuracy_of_other_networks_is_predicted(networks):
    _, accuracy, _ = networks
    _, found = fitted(networks)
    assert np.corrcoef(found[80:], accuracy[80:])[0, 1] > 0.7
    assert ((found >= 0) & (found <= 1)).all() and np.mean(found[:80]) == pytest.approx(
        np.mean(accuracy[:80]), abs=0.01
    )


def test_only_training_networks_decide_and_nothing_else_changes(networks):
    _, accuracy, initial = networks
    params, _ = fitted(networks)
    changed = np.where(np.arange(120) < 80, accuracy, 0.0).astype(np.float32)
    jax.tree.map(np.testing.assert_array_equal, params, fitted(networks, accuracy=changed)[0])
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, initial)
    for part in initial.keys() - {"accuracy"}:
        jax.tree.map(np.testing.assert_array_equal, params[part], initial[part])


def test_how_hard_tasks_are_counts_less(networks):
    _, accuracy, _ = networks
    task = np.arange(120) % 4
    shifted = (accuracy / 2 + task / 8).astype(np.float32)  # which no network shows
    _, found = fitted(networks, accuracy=shifted, task=task)
    _, blind = fitted(networks, accuracy=shifted)
    within = [np.corrcoef(told[80:], accuracy[80:])[0, 1] for told in (found, blind)]
    assert within[0] > within[1]
