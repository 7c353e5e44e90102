"""The table of which architecture to train, on made-up accuracies."""

import pytest

from experiments.tables.architecture_choice import scores, summarize

KEYS = {("cnn", 8, 2): [0.9, 0.9, 0.7, 0.7], ("mlp", 8, 2): [0.5, 0.5, 0.8, 0.8]}


def test_hindsight_is_chosen_on_one_half_and_measured_on_the_other():
    cnn, mlp = KEYS
    found = scores({"right": [cnn], "wrong": [mlp], "both": [cnn, mlp]}, KEYS)
    assert found["hindsight"]["accuracy"] == pytest.approx((0.7 + 0.5) / 2)
    assert found["right"]["accuracy"] == pytest.approx(0.8) and found["wrong"]["accuracy"] == pytest.approx(0.65)
    assert found["both"]["accuracy"] == pytest.approx(0.725) == found["random"]["accuracy"]
    assert found["right"]["regret"] == pytest.approx(-0.2) and found["hindsight"]["regret"] == 0


def test_a_row_for_each_method_over_tasks():
    rows = summarize([{"a": {"accuracy": value, "regret": 1 - value}} for value in (0.2, 0.6)], 0)
    assert [row["method"] for row in rows] == ["a"] and rows[0]["accuracy"].value == pytest.approx(0.4)
