import collections

import pytest
from ml_collections import ConfigDict

from wsrl.errors import InputError
from wsrl.zoo.models import FAMILIES
from wsrl.zoo.recipes import draw_runs
from wsrl.zoo.tasks import Task

CONFIG = ConfigDict(
    {
        "families": "mlp,vit",
        "num_classes": 5,
        "num_seen_tasks": 2,
        "runs_train": 2,
        "runs_validation": 3,
        "runs_test": 4,
        "runs_seen": 3,
        "num_children": 12,
    }
)
SPLITS = ["train"] * 5 + ["validation"] * 2 + ["test"] * 3
TASKS = [Task(f"t{i}", "d", "identity", "low", (0, 1, 2, 3, 4), split) for i, split in enumerate(SPLITS)]


def test_counts():
    runs = draw_runs(CONFIG, TASKS)
    roots = [run for run in runs if run.parent is None]
    counts = collections.Counter((run.split, run.seen) for run in roots)
    assert counts == {
        ("train", True): 5 * 2 * 2,
        ("validation", False): 2 * 2 * 3,
        ("test", False): 3 * 2 * 4,
        ("test", True): 2 * 2 * 3,
    }
    assert len(runs) == len(roots) + 12 and len({run.id for run in runs}) == len(runs)
    variants = collections.Counter((run.family, run.variant) for run in roots)
    assert len(variants) == sum(len(FAMILIES[family]) for family in CONFIG.families.split(","))
    assert max(variants.values()) - min(variants.values()) <= 1


def test_splits_share_no_task_and_no_lineage():
    runs = draw_runs(CONFIG, TASKS)
    split_of = {task.id: task.split for task in TASKS}
    lineages = collections.defaultdict(set)
    for run in runs:
        lineages[run.lineage].add((run.split, run.seen))
        assert split_of[run.task] == ("train" if run.seen else run.split)
    assert all(len(sides) == 1 for sides in lineages.values())


def test_children_change_the_task():
    runs = {run.id: run for run in draw_runs(CONFIG, TASKS)}
    children = [run for run in runs.values() if run.parent is not None]
    for child in children:
        parent = runs[child.parent]
        assert child.task != parent.task and child.lineage == parent.lineage and child.seed != parent.seed
        assert (child.family, child.variant) == (parent.family, parent.variant)


def test_seed_fixes_the_runs():
    assert draw_runs(CONFIG, TASKS, 3) == draw_runs(CONFIG, TASKS, 3) != draw_runs(CONFIG, TASKS, 4)


def test_recipes_vary():
    runs = draw_runs(CONFIG, TASKS)
    for field in ("optimizer", "data_fraction", "label_noise", "dropout", "learning_rate", "class_order"):
        assert len({getattr(run, field) for run in runs}) > 2
    assert all(sorted(run.class_order) == list(range(5)) for run in runs)


def test_unknown_family():
    with pytest.raises(InputError, match="no family lstm"):
        draw_runs(ConfigDict({**CONFIG, "families": "lstm"}), TASKS)
