"""The experiment that measures `wsrl recommend`."""

import json
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from experiments.tables import recommendation
from experiments.tables.recommendation import METHODS, Run, draw_examples, main, measured, scores, summarize
from wsrl.data import load_image_set
from wsrl.zoo.load import Networks
from wsrl.zoo.tasks import Task


@pytest.fixture(scope="module")
def run():
    images = load_image_set("digits", image_size=8)
    labels = tuple(digit // 2 if digit < 6 else -1 for digit in range(10))
    tasks = [Task(f"digits.{name}.pairs", "digits", name, "pairs", labels, "test") for name in ("rot90", "identity")]
    return Run(Networks([], [], [], []), tasks, {"digits": images}, [])


def test_examples_are_held_out_images_of_the_task(run):
    rotated, plain = (draw_examples(run.sets[task.dataset], task, 60, 0, 0) for task in run.tasks)
    assert plain.x.shape == (60, 8, 8) and plain.classes == 3 and plain.held_out.sum() == 12
    images = run.sets["digits"]
    of = {
        image.tobytes(): (label, held) for image, label, held in zip(images.x, images.y, images.held_out, strict=True)
    }
    assert [of[x.tobytes()][0] // 2 for x in plain.x] == plain.y.tolist()
    assert all(of[x.tobytes()][1] for x in plain.x)
    back = np.ascontiguousarray(np.rot90(rotated.x, -1, (1, 2)))
    assert [of[x.tobytes()][0] // 2 for x in back] == rotated.y.tolist()
    again, other = (draw_examples(run.sets[run.tasks[1].dataset], run.tasks[1], 60, draw, 0) for draw in (0, 1))
    np.testing.assert_array_equal(plain.x, again.x)
    assert not np.array_equal(plain.x, other.x)
    assert len(draw_examples(run.sets[run.tasks[0].dataset], run.tasks[0], 10**6, 0, 0).y) < len(images.y)


def test_scores_are_those_of_the_order():
    relevant = np.array([True, False, True, False])
    found = scores([np.array([0, 2, 1, 3]), np.array([1, 3, 0, 2])], relevant)
    assert found == {"P@1": [1.0, 0.0], "P@10": [0.2, 0.2], "mAP": [1.0, pytest.approx((1 / 3 + 2 / 4) / 2)]}


def fake(value):
    """Scores of a query, of two encoders where any is used."""
    found: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        encoders = [value] if method in ("LogME", "random") else [value, value]
        found[method] = {"P@1": encoders, "P@10": encoders, "mAP": encoders, "seconds": value}
    found["data set"]["error"] = 0.1
    return found


def test_an_interrupted_measurement_goes_on(run, tmp_path, monkeypatch):
    calls = []

    def measure(run, task, examples, seed):
        calls.append((task.id, len(examples.y), seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fake(0.5)

    monkeypatch.setattr(recommendation, "measure", measure)
    path = tmp_path / "recommendation.json"
    with pytest.raises(KeyboardInterrupt):
        list(measured(run, path, {"seed": 0}, [20, 40], 2, 0))
    found = list(measured(run, path, {"seed": 0}, [20, 40], 2, 0))
    assert len(found) == 8 and len(calls) == 3 + 6 and len(set(calls)) == 8
    assert [count for count, _, _ in found] == [20] * 4 + [40] * 4
    list(measured(run, path, {"seed": 1}, [20], 1, 1))
    assert len(calls) == 9 + 2 and len(json.loads(path.read_bytes())["queries"]) == 2


def test_rows_tell_means_over_tasks_and_encoders():
    queries = [(20, "a", fake(0.2)), (20, "b", fake(0.6)), (100, "a", fake(1.0))]
    rows = summarize(queries, 0)
    assert [(row["examples"], row["method"]) for row in rows] == [(n, m) for n in (20, 100) for m in METHODS]
    assert astuple(rows[0]["mAP"]) == pytest.approx((0.4, 0.2, 0.6))
    assert rows[0]["error of expected accuracy"] == pytest.approx(0.1) and "error of expected accuracy" not in rows[1]
    assert rows[len(METHODS)]["seconds"] == 1.0


def test_bad_input_is_told_in_a_line(tmp_path, capsys):
    assert main([f"--workdir={tmp_path}"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path}: holds no run") and err.count("\n") == 1
    for option in ("--examples=20,x", "--examples=3", "--draws=0", "--seed=-1"):
        assert main([f"--workdir={tmp_path}", option]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"error: {option.split('=')[0]}: ") and err.count("\n") == 1
