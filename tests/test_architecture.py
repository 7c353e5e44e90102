"""Which architecture is recommended for a data set."""

import numpy as np
import pytest

from wsrl.recommendation.architecture import PRIOR, rank_architectures


def zoo(effects: dict[str, dict[str, float]], each: int = 6):
    """Models of two tasks, the second of which is hard; effects by task and family."""
    metadata, accuracy = [], []
    for task, level in (("near", 0.8), ("far", 0.4)):
        for family, effect in effects[task].items():
            metadata += [{"task": task, "architecture": family, "width": 8, "depth": 2}] * each
            accuracy += [level + effect] * each
    return metadata, np.array(accuracy)


def similar(metadata, near: float) -> np.ndarray:
    return np.array([near if about["task"] == "near" else 1 - near for about in metadata])


EFFECTS = {"near": {"cnn": 0.1, "mlp": -0.1}, "far": {"cnn": -0.1, "mlp": 0.1}}


@pytest.mark.parametrize(("near", "best"), [(0.9, "cnn"), (0.1, "mlp")])
def test_what_did_well_on_near_tasks_comes_first(near, best):
    metadata, accuracy = zoo(EFFECTS)
    found = rank_architectures(metadata, ["net"] * len(metadata), accuracy, similar(metadata, near), 0.7)
    assert found[0].architecture == best and (found[0].width, found[0].depth, found[0].models) == (8, 2, 12)
    assert found[0].accuracy == pytest.approx(0.7 + found[0].effect)


def test_a_hard_task_does_not_count_against_who_tried_it():
    metadata, accuracy = zoo({"near": {"cnn": 0.0, "mlp": 0.0}, "far": {"cnn": 0.1, "vit": 0.0}})
    found = {
        one.architecture: one.effect
        for one in rank_architectures(metadata, [""] * len(metadata), accuracy, similar(metadata, 0.5), 0.5)
    }
    assert found["vit"] == pytest.approx(-0.05 * 6 / (6 + PRIOR)) and found["mlp"] == pytest.approx(0)


def test_only_the_last_checkpoint_of_a_run_counts_and_classes_stand_in_for_families():
    metadata = [{"task": "t", "run": "a", "step": step} for step in (100, 300, 200)] + [{"task": "t"}]
    found = rank_architectures(metadata, ["dense"] * 3 + ["conv"], np.array([0.2, 0.9, 0.3, 0.5]), np.zeros(4), 0.5)
    assert [(one.architecture, one.width, one.models) for one in found] == [("dense", None, 1), ("conv", None, 1)]
    assert found[0].effect == pytest.approx(0.2 / (1 + PRIOR))


def test_a_step_that_is_no_number_counts_as_none():
    metadata = [{"task": "t", "run": "a", "step": step} for step in ("first", 20, 40)]
    (own,) = rank_architectures(metadata, ["dense"] * 3, np.array([0.1, 0.2, 0.9]), np.zeros(3), 0.5)
    assert own.models == 1
