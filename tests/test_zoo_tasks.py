import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsrl.data import ImageSet
from wsrl.errors import InputError
from wsrl.zoo.tasks import TRANSFORMS, draw_tasks, partition, transform_images


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
