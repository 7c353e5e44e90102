import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from wsrl.recommendation.logme import log_maximum_evidence


def draw(seed, n, dim, informative):
    """Features and labels; the labels follow from the first feature, or from nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, dim)) * rng.uniform(0.3, 3, dim)
    cause = features[:, 0] + 0.5 * rng.normal(size=n) if informative else rng.normal(size=n)
    return features, np.digitize(cause, np.quantile(cause, [0.3, 0.6]))


def brute_force(features, labels):
    """Maximizes the density of the targets, a normal one, over alpha and beta from many starts."""
    n = len(features)
    best = []
    for label in np.unique(labels):
        target = (labels == label).astype(float)

        def loss(logs, target=target):
            covariance = np.exp(-logs[1]) * np.eye(n) + np.exp(-logs[0]) * features @ features.T
            return -multivariate_normal(np.zeros(n), covariance).logpdf(target)

        found = [minimize(loss, start, method="Nelder-Mead") for start in ((0, 0), (3, 2), (6, 1), (-2, 3))]
        best.append(-min(result.fun for result in found))
    return np.mean(best) / n


@pytest.mark.parametrize(("n", "dim"), [(40, 5), (12, 20)])
@pytest.mark.parametrize("informative", [True, False])
def test_it_is_the_maximum_of_the_evidence(n, dim, informative):
    features, labels = draw(3, n, dim, informative)
    expected = brute_force(features, labels)
    assert log_maximum_evidence(features, labels) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(5, 60), st.integers(1, 30), st.floats(1e-3, 1e3))
def test_rotations_scales_and_names_of_classes_change_nothing(seed, n, dim, scale):
    features, labels = draw(seed, n, dim, True)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    order = rng.permutation(n)
    moved = log_maximum_evidence((scale * features @ rotation)[order], 7 - 2 * labels[order])
    assert moved == pytest.approx(log_maximum_evidence(features, labels), rel=1e-3, abs=1e-3)


def test_features_that_tell_the_classes_win():
    features, labels = draw(0, 200, 10, True)
    noise = np.random.default_rng(1).permutation(features)
    half = np.concatenate([features[:100], noise[100:]])
    scores = [log_maximum_evidence(f, labels) for f in (features, half, noise)]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[1] + 0.01 > scores[2]


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (np.zeros((6, 3)), [0, 1, 2, 0, 1, 2]),
        (np.ones((6, 1)), [0, 1, 0, 1, 0, 1]),
        (np.eye(4)[[0, 1, 2, 3, 0, 1]], [0, 1, 2, 3, 0, 1]),  # solved without an error
        (np.full((3, 2), 1e-30), [5, 5, 5]),
        (np.ones((1, 1)), [0]),
    ],
)
def test_extreme_features_have_a_finite_score(features, labels):
    assert np.isfinite(log_maximum_evidence(features, np.array(labels)))


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="finite"):
        log_maximum_evidence(np.array([[np.nan], [1.0]]), np.array([0, 1]))
    with pytest.raises(ValueError, match="needs samples"):
        log_maximum_evidence(np.zeros((0, 2)), np.zeros(0, int))


def test_features_that_say_nothing_overflow_nothing():
    """Weights are zero where a feature is at right angles to every label."""
    found = log_maximum_evidence(np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([0, 0, 1, 1]))
    assert found == pytest.approx(log_maximum_evidence(np.zeros((4, 1)), np.array([0, 0, 1, 1])), abs=1e-6)
