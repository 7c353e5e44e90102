import collections

import ml_collections
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsrl.data import ImageSet
from wsrl.errors import InputError
from wsrl.zoo import tasks as module
from wsrl.zoo.tasks import TRANSFORMS, draw_tasks, load_tasks, partition, random_merge, transform_images


def image_set(name, classes=10):
    y = np.arange(4 * classes) % classes
    return ImageSet(name, np.zeros((len(y), 4, 4), np.uint8), y, classes, y % 5 == 0)


def signature(task):
    return task.dataset, task.transform, partition(task.label_map)


@pytest.mark.parametrize("seed", range(5))
def test_tasks_are_distinct_and_balanced(seed):
    sets = [image_set("a"), image_set("b"), image_set("c", 12)]
    tasks = draw_tasks(sets, 60, 12, 6, seed)
    assert tasks == draw_tasks(sets, 60, 12, 6, seed)
    assert len({signature(task) for task in tasks}) == len({task.id for task in tasks}) == 60
    splits = [task.split for task in tasks]
    assert (splits.count("train"), splits.count("validation"), splits.count("test")) == (42, 6, 12)
    for name in "abc":
        own = [task for task in tasks if task.dataset == name]
        assert len(own) == 20
        assert {task.transform for task in own} == set(TRANSFORMS)
        assert {task.labels.split("-")[0] for task in own} >= {
            "low",
            "even",
            "pairs",
            "mod5",
            "subset",
            "merge",
        }
    for task in tasks:
        assert set(task.label_map) - {-1} == set(range(5))


def test_as_many_classes_as_outputs():
    tasks = draw_tasks([image_set("a", 5)], 10, 2, 1)
    assert {task.labels for task in tasks} == {"low"} and {task.transform for task in tasks} == set(TRANSFORMS)
    with pytest.raises(InputError, match="too few distinct"):
        draw_tasks([image_set("a", 5)], 11, 2, 1)


def test_impossible_settings():
    with pytest.raises(InputError, match="4 classes"):
        draw_tasks([image_set("a", 4)])
    with pytest.raises(InputError, match="no tasks left"):
        draw_tasks([image_set("a")], 10, 6, 4)


@given(st.lists(st.integers(-1, 4), min_size=1), st.permutations(range(5)))
def test_partition_does_not_depend_on_names(label_map, names):
    renamed = [names[label] if label >= 0 else -1 for label in label_map]
    assert partition(label_map) == partition(renamed)
    assert partition(partition(label_map)) == partition(label_map)


def test_transforms_differ():
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)
    outcomes = {transform: transform_images(x, transform) for transform in TRANSFORMS}
    assert len({outcome.tobytes() for outcome in outcomes.values()}) == len(TRANSFORMS) == 10
    assert np.array_equal(outcomes["identity"], x)
    assert np.array_equal(outcomes["identity-inverted"], 255 - x)
    assert np.array_equal(outcomes["rot90"][1], np.rot90(x[1]))


@given(classes=st.integers(10, 60), num_classes=st.integers(2, 5), seed=st.integers(0, 1000))
def test_merged_classes_are_groups_of_equal_size_nearly(classes, num_classes, seed):
    name, groups = random_merge(classes, num_classes, np.random.default_rng(seed))
    assert len(groups) == classes and groups == partition(groups)
    sizes = np.bincount([group for group in groups if group >= 0], minlength=num_classes)
    assert len(sizes) == num_classes
    if classes > 2 * num_classes:  # two classes a group, the others are left out
        assert set(sizes) == {2}
        told = [{int(c) for c in group.split(".")} for group in name.removeprefix("merge-").split("-")]
        assert told == [{c for c, group in enumerate(groups) if group == label} for label in range(num_classes)]
    else:
        assert sizes.sum() == classes and sizes.max() - sizes.min() <= 1


@pytest.fixture
def settings(monkeypatch):
    """A zoo's settings; image sets are blank, of ten classes or as many as the name's end tells."""
    loaded = []

    def load(name, data_dir, image_size, max_images, seed):
        loaded.append((name, seed))
        return image_set(name, int(name.split("-")[-1]) if "-" in name else 10)

    monkeypatch.setattr(module, "load_image_set", load)
    config = ml_collections.ConfigDict(
        {
            "datasets": "a,b,c-30",
            "validation_datasets": "",
            "test_datasets": "",
            "data_dir": "",
            "image_size": 4,
            "max_images": 100,
            "num_classes": 5,
            "num_tasks": 40,
            "num_test_tasks": 8,
            "num_validation_tasks": 4,
        }
    )
    return config, loaded


def counts(tasks):
    return collections.Counter(task.split for task in tasks)


def test_without_sets_of_their_own_tasks_are_those_of_one_draw(settings):
    config, loaded = settings
    sets, tasks = load_tasks(config, 3)
    assert loaded == [("a", 3), ("b", 3), ("c-30", 3)] == [(images.name, 3) for images in sets]
    assert tasks == draw_tasks(sets, 40, 8, 4, 3, 5)


@pytest.mark.parametrize(("validation", "test"), [("", "d,e-12"), ("d", ""), ("d,f", "e-12"), ("f", "d,e-12,g-20")])
def test_sets_of_a_split_are_for_it_alone(settings, validation, test):
    config, _ = settings
    config.update(validation_datasets=validation, test_datasets=test)
    sets, tasks = load_tasks(config)
    assert load_tasks(config)[1] == tasks and load_tasks(config, 1)[1] != tasks
    assert [images.name for images in sets] == [n for n in f"a,b,c-30,{validation},{test}".split(",") if n]
    assert counts(tasks) == {"train": 28, "validation": 4, "test": 8}
    assert len({task.id for task in tasks}) == len({signature(task) for task in tasks}) == 40
    for split, names in (("validation", validation), ("test", test)):
        if names:
            own = {task.dataset for task in tasks if task.split == split}
            assert own == set(names.split(","))
            assert not own & {task.dataset for task in tasks if task.split != split}
        else:
            assert {task.dataset for task in tasks if task.split == split} <= {"a", "b", "c-30"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"test_datasets": "a"}, "a: is named twice"),
        ({"validation_datasets": "d", "test_datasets": "e,d"}, "d: is named twice"),
        ({"datasets": "a,b,a"}, "a: is named twice"),
        ({"test_datasets": "d-4"}, "d-4: 4 classes, fewer than the 5"),
        ({"validation_datasets": "d-5", "num_validation_tasks": 11}, "d-5 has too few distinct tasks"),
        ({"validation_datasets": "d", "test_datasets": "e", "num_tasks": 12}, "no tasks left to train on"),
        ({"validation_datasets": "d", "test_datasets": "e", "num_tasks": 5}, "no tasks left to train on"),
    ],
)
def test_unusable_sets_are_refused_in_one_line(settings, change, reason):
    config, _ = settings
    config.update(change)
    with pytest.raises(InputError, match=reason) as error:
        load_tasks(config)
    assert "\n" not in str(error.value)
