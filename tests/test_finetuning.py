import json
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from experiments.job.trainable import final_checkpoints, find_architecture
from experiments.tables.encoded_gallery import Asked, Encoded
from experiments.tables.finetuning import RECORDED, SCHEDULE, best_rates, main, measure, steps_to, summarize
from experiments.tables.starting_points import (
    Models,
    Pick,
    by_start_score,
    first,
    first_by_evidence,
    largest,
    measure_evidence,
    most_accurate,
)
from wsrl.errors import InputError
from wsrl.recommendation.probes import Query
from wsrl.recommendation.start_score import StartScore
from wsrl.zoo.bank import ImageBank
from wsrl.zoo.families import MAIN
from wsrl.zoo.finetuning import (
    MOMENTUM,
    Curves,
    FineTuner,
    adapt_statistics,
    fit_head,
    read_features,
    split_task,
    with_head,
)
from wsrl.zoo.manifest import Record
from wsrl.zoo.models import MLP, CNNFlatten
from wsrl.zoo.stacked import initialize
from wsrl.zoo.tasks import Task

SMALL = MLP("relu", widths=(6,))
NORMED = CNNFlatten("gelu", widths=(3,), conv_strides=(2,), hidden=6)


@pytest.fixture(scope="module")
def bank():
    """Images of five classes, each a bright row of its own in noise, 160 to train on and 40 held out."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 5
    images = rng.integers(0, 60, (200, 8, 8)).astype(np.uint8)
    images[np.arange(200), labels] += 180
    return ImageBank(images, {"rows": (np.arange(160), labels[:160])}, {"rows": (np.arange(160, 200), labels[160:])})


@pytest.fixture(scope="module")
def tuner(bank):
    return FineTuner(bank, stack=2)


def inputs(bank, count=160):
    return (bank.images[:count].astype(np.float32) * (2 / 255) - 1)[..., None]


def test_parts_of_a_task_are_disjoint(bank):
    data = split_task(bank, "rows", seed=3)
    assert sorted([*data.train.rows, *data.validation.rows]) == list(range(160))
    assert len(data.validation.rows) == 32
    assert (data.train.labels == data.train.rows % 5).all()
    few = split_task(bank, "rows", seed=3, most=50)
    assert (len(few.train.rows), len(few.validation.rows)) == (40, 10)
    assert {*few.train.rows, *few.validation.rows} < {*data.train.rows, *data.validation.rows}


@pytest.mark.parametrize("model", [SMALL, NORMED])
def test_features_and_last_layer_make_the_logits(model, bank):
    variables = initialize(model, 8, 1, 1.0)
    kernel, bias = np.ones((6, 5), np.float32) * np.arange(5, dtype=np.float32), np.arange(5, dtype=np.float32)
    other = with_head(variables, kernel, bias)
    features = read_features(model, variables, inputs(bank))
    np.testing.assert_allclose(model.apply(other, inputs(bank)), features @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_head_separates_what_is_separable_and_is_sharp():
    labels = np.arange(100) % 5
    features = np.eye(5)[labels].astype(np.float32) + np.random.default_rng(0).normal(0, 0.02, (100, 5))
    kernel, bias = fit_head(features.astype(np.float32), labels, 5)
    logits = features @ kernel + bias
    assert (logits.argmax(1) == labels).all()
    assert (np.sort(logits, 1)[:, -1] - np.sort(logits, 1)[:, -2]).min() > 5


def test_head_of_constant_features_tells_the_shares_of_the_classes():
    labels = np.array([0, 0, 0, 1])
    kernel, bias = fit_head(np.ones((4, 3), np.float32), labels, 5)
    assert not kernel.any()
    assert bias.argmax() == 0


def test_head_of_few_images_is_not_surer_than_it_should_be():
    rng = np.random.default_rng(0)
    directions, labels = rng.normal(size=(5, 60)), np.arange(480) % 5
    features = (0.35 * directions[labels] + rng.normal(size=(480, 60))).astype(np.float32)
    kernel, bias = fit_head(features[:80], labels[:80], 5)  # nearly as many features as images
    logits = features @ kernel + bias
    entropy = -scipy.special.log_softmax(logits, 1)[np.arange(480), labels]
    assert (logits[80:].argmax(1) == labels[80:]).mean() > 0.75
    assert 0.05 < entropy[:80].mean() < entropy[80:].mean() < 0.8


def test_adapted_statistics_are_those_of_the_images(bank):
    variables = initialize(NORMED, 8, 1, 1.0)
    once = adapt_statistics(NORMED, variables, inputs(bank))
    twice = adapt_statistics(NORMED, once, inputs(bank))
    assert MOMENTUM < 1
    for before, after in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-5)
    in_training, _ = NORMED.apply(
        once, inputs(bank), train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(NORMED.apply(once, inputs(bank)), in_training, atol=1e-4)


def test_fine_tuning_learns_and_does_not_depend_on_the_stack(bank, tuner):
    data = split_task(bank, "rows", seed=0)
    starts = [initialize(SMALL, 8, seed, 1.0) for seed in range(3)]
    curves = tuner.fine_tune(SMALL, starts, data, (1e-3, 1e-2), (0, 50), seed=0, ridge_head=False)
    assert curves.test.shape == (3, 2, 2)
    assert curves.test[:, 1, 1].mean() > curves.test[:, 1, 0].mean() + 0.3
    alone = tuner.fine_tune(SMALL, starts[2:], data, (1e-2,), (0, 50), seed=0, ridge_head=False)
    np.testing.assert_allclose(alone.test[0, 0], curves.test[2, 1], atol=0.03)
    assert curves.step_seconds > 0


def test_features_are_those_of_the_images_asked_for(bank, tuner):
    variables = [initialize(SMALL, 8, seed, 1.0) for seed in range(3)]
    few, _ = tuner.features(SMALL, variables, np.arange(70))
    assert few.shape == (3, 70, 6)
    np.testing.assert_allclose(few[2], read_features(SMALL, variables[2], inputs(bank, 70)), atol=1e-5)


def test_linear_probes_are_ridge_heads_that_are_not_trained(bank, tuner):
    starts = [initialize(NORMED, 8, seed, 1.0) for seed in range(3)]
    data = split_task(bank, "rows", seed=0)
    found = tuner.linear_probe(NORMED, starts, data.train, data.test)
    fitted = tuner.fine_tune(NORMED, starts, data, (1e-3,), (0,), seed=0)
    np.testing.assert_allclose(found, fitted.test[:, 0, 0], atol=1e-6)


def test_ridge_head_starts_ahead(bank, tuner):
    data = split_task(bank, "rows", seed=0)
    starts = [initialize(NORMED, 8, seed, 1.0) for seed in range(2)]
    fitted = tuner.fine_tune(NORMED, starts, data, (1e-3,), (0,), seed=0)
    plain = tuner.fine_tune(NORMED, starts, data, (1e-3,), (0,), seed=0, ridge_head=False)
    assert fitted.test.mean() > plain.test.mean() + 0.3
    assert fitted.head_seconds > 0 == plain.head_seconds


@given(st.lists(st.floats(0, 1), min_size=len(RECORDED), max_size=len(RECORDED)), st.floats(0, 1))
def test_steps_to_an_accuracy(values, target):
    accuracy = np.array(values)
    steps = steps_to(accuracy, target)
    assert 0 <= steps <= SCHEDULE
    before = [value for value, step in zip(values, RECORDED, strict=True) if step < steps]
    assert all(value < target for value in before)


def test_steps_are_interpolated():
    accuracy = np.array([0.0, 0.5, 1.0] + [1.0] * (len(RECORDED) - 3))
    assert steps_to(accuracy, 0.75) == 7.5
    assert steps_to(accuracy * 0.5, 0.75) == SCHEDULE


def record(name="a", **changes):
    fields = {
        "path": name,
        "task": "t",
        "dataset": "d",
        "architecture": "mlp",
        "activation": "relu",
        "seed": 0,
        "parent": None,
        "step": 1,
        "accuracy": 0.5,
        "split": "train",
    }
    extra = {"lineage": changes.pop("lineage", name), "strides": [], "heads": None}
    extra |= {key: changes.pop(key) for key in ("run", "copy") if key in changes}
    return Record(**{"id": name, **fields, **changes}, extra=extra)


def test_no_model_of_the_task_or_its_lineages_is_a_candidate():
    records = [record("a", task="t"), record("b", task="u", lineage="a"), record("c", task="u")]
    tasks_of = {"a": {"t", "u"}, "c": {"u"}}
    models = Models(records, [SMALL] * 3, [{}] * 3, [], tasks_of, [], [])
    assert models.candidates("t").tolist() == [2]
    assert models.candidates("v").tolist() == [0, 1, 2]


def test_metadata_pick_prefers_the_data_set():
    records = [
        record("a", accuracy=0.9),
        record("b", accuracy=0.6, dataset="e"),
        record("c", accuracy=0.7, dataset="e"),
    ]
    encoded = [Encoded(Path(), None, None, np.zeros((3, 2)), ["dense"] * 3, 0.0)] * 2  # pyright: ignore[reportArgumentType]
    models = Models(records, [SMALL] * 3, [{}] * 3, [], {}, encoded, [])
    assert most_accurate(models, np.arange(3), Task("x", "e", "identity", "low", (0,), "test")).places == [2, 2]
    assert most_accurate(models, np.arange(3), Task("x", "f", "identity", "low", (0,), "test")).places == [0, 0]


def test_the_nearest_model_and_the_most_evident_of_the_near_ones():
    orders = [np.arange(30), np.arange(30)[::-1]]
    evidence = np.arange(30, dtype=float)
    evidence[7] = -np.inf
    asked = Asked([], [], orders, 0.5)
    assert first(asked) == Pick([0, 29], 0.5)
    seconds = np.where(np.arange(30) < 20, 1.0, 2.0)  # the last ten take longer
    found = first_by_evidence(asked, evidence, seconds)
    assert found.places == [19, 29] and found.seconds == pytest.approx(0.5 + (20 + 30) / 2)


def test_the_best_start_that_the_weights_tell_and_the_largest():
    vectors = np.eye(4, 2, dtype=np.float32)
    encoded = [Encoded(Path(), None, None, vectors, ["dense"] * 4, 0.0)] * 2  # pyright: ignore[reportArgumentType]
    sizes = np.array([[5, 2, 1], [7, 2, 1], [6, 2, 1], [9, 2, 1]], np.float32)
    score = StartScore(np.zeros(2, np.float32), np.eye(2, 1, dtype=np.float32), np.array([0, 1, 0, 0, 0], np.float32))
    scores = [score, score._replace(weights=-score.weights)]
    models = Models([], [], [], [], {}, encoded, scores)
    vars(models)["sizes"] = sizes
    asked = Asked([Query(vectors[:1], ["data"], None)] * 2, [], [], 0.5)
    found = by_start_score(models, np.arange(3), asked)
    assert [order.tolist() for order in found.orders] == [[1, 2, 0], [0, 2, 1]]
    assert first(found).places == [1, 0] and found.seconds > 0.5
    assert largest(models, np.arange(3)).places == [1, 1]


def test_final_checkpoints_are_the_last_of_each_run():
    records = [record("a", step=1, run="a"), record("b", step=2, run="a"), record("c", run="c", copy="noisy")]
    assert [r.id for r in final_checkpoints(records)] == ["b"]


def test_architecture_is_found_by_its_shapes():
    model = MAIN["mlp"].variants[1]
    zoo = ConfigDict({"catalogue": "main", "image_size": 16, "num_classes": 5})
    own = record(activation="tanh")
    assert find_architecture(own, initialize(model, 16, 0, 1.0), zoo) == model
    wider = model.clone(num_classes=7)
    zoo.num_classes = 7
    assert find_architecture(own, initialize(wider, 16, 0, 1.0), zoo) == wider
    with pytest.raises(InputError, match="no architecture"):
        find_architecture(own, initialize(SMALL, 16, 0, 1.0), zoo)


def fake(accuracy, search=0.0):
    return [{"accuracy": accuracy, "search_seconds": search, "head_seconds": 0.5, "step_seconds": 0.1}]


def test_validation_images_choose_the_learning_rate():
    validation = np.array([[[0.2, 0.4, 0.9], [0.3, 0.5, 0.0]]])  # the last step is not an early one
    curves = Curves(validation, 1 - validation, 0.5, 0.1)
    (found,) = best_rates(curves, (1e-3, 1e-2), (0, 10, 300))
    assert found["rate"] == 1e-2 and found["validation"] == pytest.approx(0.4)
    np.testing.assert_array_equal(found["accuracy"], curves.test[0, 1])


def test_summary():
    rising = np.minimum(np.array(RECORDED) / 100, 1.0)
    ready = np.ones(len(RECORDED))
    task = {"retrieved": fake(ready, 1.0), "scratch": fake(rising), "LogME": fake(rising, 4.0)}
    task["best in hindsight"] = fake(ready)
    task["scratch, ridge head"] = fake(0.75 * ready)
    rows, plot = summarize([task, task], seed=0)
    by_name = {row["start"]: row for row in rows}
    assert by_name["scratch"]["steps to 90 %"].value == pytest.approx(90)
    assert by_name["scratch"]["seconds to 90 %"].value == pytest.approx(9.5)
    assert by_name["retrieved"]["seconds to 90 %"].value == pytest.approx(1.5)
    assert by_name["scratch"]["median steps to 90 %"] == pytest.approx(90)
    assert by_name["scratch"]["regret"].value == pytest.approx(0.5)
    assert by_name["retrieved"]["gain"].value == pytest.approx(0.25)
    assert by_name["scratch"]["gain"].value == pytest.approx(-0.25)
    assert by_name["retrieved"]["search, of LogME's"] == pytest.approx(0.25)
    assert len(plot) == 5 * len(RECORDED)


def test_measure_compares_every_start(bank, tuner):
    records = [record(name, task="other") for name in "abc"]
    starts = [initialize(SMALL, 8, seed, 1.0) for seed in range(3)]
    tasks_of = {name: {"other"} for name in "abc"}
    models = Models(records, [SMALL] * 3, starts, [], tasks_of, [None], [])  # pyright: ignore[reportArgumentType]
    data = split_task(bank, "rows", seed=0)
    evidence, seconds = measure_evidence(models, np.array([0, 2]), tuner, data)
    assert np.isfinite(evidence).tolist() == (seconds > 0).tolist() == [True, False, True]
    picks = {"predicted": Pick([1], 0.5), "LogME": Pick([int(evidence.argmax())], float(seconds.sum()))}
    task = Task("rows", "d", "identity", "low", tuple(range(5)), "test")
    found = measure(models, tuner, task, data, picks, seed=0)
    assert list(found) == ["predicted", "LogME", "best in hindsight", "scratch", "scratch, ridge head"]
    assert found["predicted"][0]["model"] == "b"
    assert found["scratch"][0]["accuracy"][0] < 0.6 < found["scratch, ridge head"][0]["accuracy"][0]
    assert len(json.loads(json.dumps(found))["LogME"][0]["accuracy"]) == len(RECORDED)
    rows, _ = summarize([found], seed=0)
    assert rows[2]["regret"].value == 0


def test_a_folder_without_a_run_is_told_in_one_line(tmp_path, capsys):
    assert main([f"--workdir={tmp_path}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main([f"--workdir={tmp_path}", "--tasks=0"]) == 1
    assert "--tasks" in capsys.readouterr().err
    assert main([f"--workdir={tmp_path}", "--examples=5"]) == 1
    assert "--examples" in capsys.readouterr().err
