import collections
import dataclasses

import pytest
from ml_collections import ConfigDict

from wsrl.errors import InputError
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.recipes import draw_runs
from wsrl.zoo.tasks import Task

CONFIG = ConfigDict(
    {
        "catalogue": "main",
        "families": "mlp,vit",
        "test_families": "",
        "recipes": "sound",
        "num_classes": 5,
        "num_seen_tasks": 2,
        "runs_train": 2,
        "runs_validation": 3,
        "runs_test": 4,
        "runs_seen": 3,
        "num_children": 12,
        "num_distilled": 0,
        "stretched": 0.0,
        "stretch": 1,
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
    assert len(variants) == sum(len(CATALOGUES["main"][family].variants) for family in CONFIG.families.split(","))
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


def test_broad_recipes_reach_further():
    sound, broad = (draw_runs(ConfigDict({**CONFIG, "recipes": name}), TASKS) for name in ("sound", "broad"))
    assert [run.id for run in sound] == [run.id for run in broad]
    for field, edge in (("learning_rate", min), ("init_scale", max), ("dropout", max)):
        narrow, wide = (edge(getattr(run, field) for run in runs) for runs in (sound, broad))
        assert wide < narrow if edge is min else wide > narrow
    assert 0.1 in {run.data_fraction for run in broad}


def test_networks_have_an_output_for_each_class():
    assert {run.model.num_classes for run in draw_runs(CONFIG, TASKS)} == {5}
    runs = draw_runs(ConfigDict({**CONFIG, "num_classes": 7}), TASKS)
    assert {(run.model.num_classes, len(run.class_order)) for run in runs} == {(7, 7)}


def test_unknown_family():
    with pytest.raises(InputError, match="no family lstm"):
        draw_runs(ConfigDict({**CONFIG, "families": "lstm"}), TASKS)


def wide(**changes):
    return draw_runs(ConfigDict({**CONFIG, "catalogue": "wide", **changes}), TASKS)


def test_wide_test_runs_have_variants_that_no_other_run_has():
    for runs in (wide(), wide(num_distilled=9)):
        for family in ("mlp", "vit"):
            models = collections.defaultdict(set)
            for run in runs:
                if run.family == family:
                    models[run.split].add(run.model)
            known = CATALOGUES["wide"][family]
            assert models["train"] | models["validation"] == set(known.train)
            assert models["test"] == set(known.test) and not models["test"] & models["train"]


def test_a_family_can_be_kept_for_the_test():
    runs = wide(test_families="resnet,vit", families="mlp,cnn_gap", num_distilled=20)
    families = collections.defaultdict(set)
    for run in runs:
        families[run.split].add(run.family)
    assert families == {"train": {"mlp", "cnn_gap"}, "validation": {"mlp", "cnn_gap"}, "test": {"resnet", "vit"}}
    counts = collections.Counter((run.split, run.seen) for run in runs if run.parent is run.teacher is None)
    assert counts["test", False] == 3 * 2 * 4 and counts["test", True] == 2 * 2 * 3


def test_distilled_runs_are_of_another_family_and_their_teachers_lineage():
    before, runs = wide(), wide(num_distilled=15)
    assert runs[: len(before)] == before and len(runs) == len(before) + 15
    for run in runs[len(before) :]:
        assert run.teacher in before and run.family != run.teacher.family and run.parent is None
        assert run.label_noise == 0 and run.seed != run.teacher.seed
        for field in ("task", "split", "seen", "lineage", "class_order"):
            assert getattr(run, field) == getattr(run.teacher, field)
    assert len({run.teacher.id for run in runs[len(before) :]}) == len({run.id for run in runs[len(before) :]}) == 15
    with pytest.raises(InputError, match=r"zoo\.num_distilled: needs a second family"):
        wide(families="mlp", num_distilled=1)


PINNED = [
    ("mlp-00000", 1, "sgd", 136066921),
    ("vit-00037", 0, "adam", 1455857836),
    ("mlp-00079", 1, "sgd", 1461854649),
]


def test_the_main_catalogue_draws_the_runs_it_always_drew():
    runs = draw_runs(CONFIG, TASKS)
    assert [(run.id, run.variant, run.optimizer, run.seed) for run in (runs[0], runs[37], runs[-1])] == PINNED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"catalogue": "narrow"}, "zoo.catalogue: no catalogue 'narrow'"),
        ({"test_families": "mlp,lstm"}, "zoo.test_families: no family lstm"),
        ({"recipes": "narrow"}, "zoo.recipes: no recipes 'narrow'; choose from sound, broad"),
    ],
)
def test_unknown_catalogue_or_test_family(change, reason):
    with pytest.raises(InputError, match=reason):
        draw_runs(ConfigDict({**CONFIG, **change}), TASKS)


def test_a_share_of_the_roots_is_stretched_and_nothing_else_changes():
    plain = draw_runs(CONFIG, TASKS)
    config = CONFIG.copy_and_resolve_references()
    config.update(stretched=0.5, stretch=4)
    runs = draw_runs(config, TASKS)
    assert [dataclasses.replace(run, stretch=1) for run in runs] == plain
    roots = [run for run in runs if run.parent is None]
    assert {run.stretch for run in roots} == {1, 4} and all(run.stretch == 1 for run in runs if run.parent)
    assert 0.3 < sum(run.stretch == 4 for run in roots) / len(roots) < 0.7
