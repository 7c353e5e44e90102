import numpy as np
import pytest

from wsrl.data import load_image_set
from wsrl.synthetic import SIDE, TEACHER_CLASSES, dead_leaves, teacher_labels


def test_leaves_lie_over_one_another():
    images = dead_leaves(40, np.random.default_rng(0))
    assert images.shape == (40, SIDE, SIDE) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 40
    greys = [len(np.unique(image)) for image in images]
    assert 3 < np.median(greys) <= 25  # a disc is of one grey
    neighbors = np.mean(images[:, :, 1:] == images[:, :, :-1])
    assert 0.5 < neighbors < 0.99  # areas and edges


def test_images_are_fixed_by_the_seed():
    first, again, other = (dead_leaves(5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.fixture(scope="module")
def images():
    return dead_leaves(600, np.random.default_rng(0))[:, ::2, ::2]


def test_every_class_of_a_teacher_has_its_share(images):
    for seed in range(5):
        labels = teacher_labels(images, np.random.default_rng(seed))
        assert labels.dtype == np.int64
        count = np.bincount(labels, minlength=TEACHER_CLASSES)
        assert len(count) == TEACHER_CLASSES and count.min() > 10 and count.max() < 200


def test_teachers_are_fixed_by_their_seed_and_differ(images):
    first, again, other = (teacher_labels(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first == other).mean() < 0.3


def test_a_teacher_hardly_minds_noise(images):
    """Its classes can be learned: images that are alike are of one class, mostly."""
    noise = np.random.default_rng(3).integers(-4, 5, images.shape)
    noisy = np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)
    labels, others = (teacher_labels(x, np.random.default_rng(1)) for x in (images, noisy))
    assert (labels == others).mean() > 0.9


def test_sets_are_drawn_and_taught_by_name():
    drawn = load_image_set("dead_leaves", image_size=8, max_images=100)
    assert drawn.x.shape == (100, 8, 8) and drawn.classes == 1 and not drawn.y.any()
    first, again, other = (
        load_image_set(f"teacher/{number}/dead_leaves", image_size=8, max_images=100) for number in (0, 0, 1)
    )
    assert first.name == "teacher/0/dead_leaves" and first.classes == TEACHER_CLASSES
    np.testing.assert_array_equal(first.x, drawn.x)
    np.testing.assert_array_equal(first.held_out, drawn.held_out)
    np.testing.assert_array_equal(first.y, again.y)
    assert not np.array_equal(first.y, other.y)
