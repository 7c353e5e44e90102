import numpy as np
import pytest
from evaluation_records import make_record, make_zoo

from wsrl.baselines import (
    CARD,
    HYPERPARAMETERS,
    chance_features,
    metadata_features,
    raw_weight_features,
    statistics_features,
)
from wsrl.baselines.raw_weights import natural_order
from wsrl.evaluation.ranking import cosine_similarity


def network(seed: int, width: int = 8, layers: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"layer_{i}.{kind}": rng.normal(size=shape).astype(np.float32)
        for i in range(layers)
        for kind, shape in (("weight", (width, width)), ("bias", (width,)))
    }


def test_chance_is_fixed_by_its_seed():
    np.testing.assert_array_equal(chance_features(5, 0), chance_features(5, 0))
    assert not np.array_equal(chance_features(5, 0), chance_features(5, 1))
    assert chance_features(5, 0, dim=3).shape == (5, 3) and chance_features(5, 0).dtype == np.float32


def test_metadata_matches_cards_and_never_reads_the_task():
    forbidden = {"task", "transform", "labels", "class_order", "id", "path", "run", "lineage", "seed"}
    assert not forbidden & set(CARD) and set(HYPERPARAMETERS) < set(CARD)
    base = dict(width=16, optimizer="adam", learning_rate=0.00113)
    records = [
        make_record(0, "a", **base),
        make_record(1, "b", **(base | {"learning_rate": 0.00108})),
        make_record(2, "a", "vit", dataset="letters", **(base | {"optimizer": "sgd", "width": 32})),
    ]
    similarity = cosine_similarity(*[metadata_features(records)] * 2)
    assert similarity[0, 1] == pytest.approx(1)  # same card although another task
    assert similarity[0, 2] < 0.9
    assert metadata_features(records).dtype == np.float32


def test_metadata_without_any_field():
    features = metadata_features([make_record(0, "a"), make_record(1, "b")], fields=["heads"])
    assert features.shape == (2, 1) and not features.any()


def test_statistics_are_standardized_on_the_fitted_rows():
    weights = [network(seed) for seed in range(30)]
    fit = np.arange(20)
    features = statistics_features(weights, fit)
    assert features.shape == (30, 2 * 12 * 7) and features.dtype == np.float32
    used = features[fit][:, features[fit].any(axis=0)]
    np.testing.assert_allclose(used.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(used.std(axis=0), 1, atol=1e-5)
    others = [*weights[:20], *[network(seed) for seed in range(50, 60)]]
    np.testing.assert_array_equal(statistics_features(others, fit)[:20], features[:20])


def test_statistics_ignore_the_order_of_units():
    weights = [network(seed) for seed in range(6)]
    permuted = {name: np.random.default_rng(0).permutation(value) for name, value in weights[5].items()}
    features = statistics_features([*weights, permuted], np.arange(6))
    np.testing.assert_allclose(features[5], features[6], atol=1e-5)


def test_statistics_align_networks_of_other_depths_from_both_ends():
    shallow, deep = network(0, layers=2), network(0, layers=40)
    deep["layer_39.weight"], deep["layer_39.bias"] = shallow["layer_1.weight"], shallow["layer_1.bias"]
    features = statistics_features([shallow, deep, network(3)], np.arange(3), slots=4)
    front, back = features.reshape(3, 2, 4, 7).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(front[0], front[1], atol=1e-6)  # four tensors of the same seed
    np.testing.assert_allclose(back[0, :2], back[1, :2], atol=1e-6)
    assert np.isfinite(features).all()
    padded = statistics_features([shallow, deep], np.arange(2), slots=6).reshape(2, 2, 6, 7)
    assert not padded[0, 0, 4:].any()  # tensors the shallow network does not have


def test_statistics_need_rows_to_fit_on():
    with pytest.raises(ValueError, match="no row to fit"):
        statistics_features([network(0)], np.arange(0))


def test_raw_weights_are_concatenated_in_natural_order_and_padded():
    tensors = {"layer_10": np.array([3.0]), "layer_2": np.array([[1.0, 2.0]])}
    features = raw_weight_features([tensors, {"layer_2": np.array([5.0])}])
    np.testing.assert_array_equal(features, [[1, 2, 3], [5, 0, 0]])
    assert natural_order(["b1", "a10", "a9", "10", "a"]) == ["10", "a", "a9", "a10", "b1"]


def test_long_raw_weights_are_projected_with_their_cosines():
    rng = np.random.default_rng(0)
    base = rng.normal(size=20_000)
    near, far, short = base + 0.5 * rng.normal(size=20_000), rng.normal(size=20_000), base[:10_000]
    vectors = [base, near, far, short]
    features = raw_weight_features([{"w": vector} for vector in vectors])
    assert features.shape == (4, 1024) and features.dtype == np.float32
    padded = np.stack([np.pad(vector, (0, 20_000 - len(vector))) for vector in vectors])
    difference = cosine_similarity(features, features) - cosine_similarity(padded, padded)
    assert np.abs(difference).max() < 0.12  # 1 / sqrt(1024) is one standard deviation, or less


def test_features_fit_every_record_of_a_zoo():
    records = make_zoo()
    assert len(metadata_features(records)) == len(records)
