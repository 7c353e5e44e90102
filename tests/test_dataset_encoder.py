import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.zoo import get_config
from wsrl.encoder.dataset_encoder import (
    Labeled,
    embed_dataset,
    init_dataset_params,
    load_dataset_encoder,
    pad_examples,
    save_dataset_encoder,
)
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import Swept, fit_inputs
from wsrl.errors import InputError
from wsrl.training.fit import init_params
from wsrl.training.fit_dataset import DataSets, fit_dataset_encoder, query_map
from wsrl.training.sampling import Examples

SIZE, PROBES, CLASSES = 4, 16, 3
ENCODER = ResponseEncoder(probes=PROBES, input_shape=(SIZE, SIZE, 1), dim=8, chunk=4)


def examples_of(task, n, seed=0):
    """Labeled images about the centres of a task's classes."""
    rng = np.random.default_rng([task, 7])
    centres = rng.normal(size=(CLASSES, SIZE, SIZE, 1))
    rng = np.random.default_rng([task, seed])
    y = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, n - CLASSES)])
    return (centres[y] + rng.normal(0, 0.3, (n, SIZE, SIZE, 1))).astype(np.float32), y


def networks(inputs, tasks, copies):
    """Swept arrays of classifiers by distance to the centres of their task, no two alike."""
    logits, templates = [], []
    for task in tasks:
        x, y = examples_of(task, 200)
        centres = np.stack([x[y == c].mean(0) for c in range(CLASSES)])
        square = np.square(inputs[None] - centres[:, None]).mean((2, 3, 4))
        rng = np.random.default_rng(task)
        flat = centres.reshape(CLASSES, -1)
        templates += [flat - flat.mean(0) + rng.normal(0, 0.05, flat.shape) for _ in range(copies)]
        logits += [-4 * square + rng.normal(0, 0.2, square.shape) for _ in range(copies)]
    n = len(logits)
    return Swept(
        logits=np.stack(logits).astype(np.float32),
        templates=np.stack(templates).astype(np.float32),
        mask=np.ones((n, CLASSES), np.float32),
    )


@pytest.fixture(scope="module")
def fixture():
    inputs = np.random.default_rng(0).normal(size=(PROBES, SIZE, SIZE, 1)).astype(np.float32)
    params = jax.device_get(init_params(ENCODER, inputs, 0))
    swept = networks(inputs, range(8), 4)
    return params, swept, *init_dataset_params(ENCODER, inputs, 0)


def trained_features(dataset_params, seed=1):
    kernel = np.random.default_rng(seed).normal(size=dataset_params["out"]["kernel"].shape) / 16
    return {**dataset_params, "out": {"kernel": kernel.astype(np.float32)}}


def test_a_data_set_gets_one_unit_vector_whatever_its_size_and_classes(fixture):
    params, _, module, initial = fixture
    for n, classes in ((2, 2), (33, 5), (150, 11)):
        x = np.random.default_rng(n).normal(size=(n, SIZE, SIZE, 1)).astype(np.float32)
        vector = embed_dataset(module, initial, ENCODER, params, x, np.arange(n) % classes)
        assert vector.shape == (ENCODER.dim,) and vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 100), n=st.integers(3, 40))
def test_order_of_examples_order_of_classes_and_padding_do_not_matter(fixture, seed, n):
    params, _, module, initial = fixture
    changed = trained_features(initial)
    x, y = examples_of(seed, n, seed)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(n), rng.permutation(CLASSES)
    one = embed_dataset(module, changed, ENCODER, params, x, y)
    other = embed_dataset(module, changed, ENCODER, params, x[order], names[y[order]])
    np.testing.assert_allclose(one, other, atol=2e-5)
    twice = embed_dataset(module, changed, ENCODER, params, np.tile(x, (3, 1, 1, 1)), np.tile(y, 3))
    np.testing.assert_allclose(one, twice, atol=2e-5)  # means do not change, the program may


def test_the_classifier_is_a_mean_kernel_and_classifies(fixture):
    _, _, module, initial = fixture
    x, y = examples_of(0, 60)
    new, truth = examples_of(0, 40, seed=5)
    logits = module.apply({"params": initial}, new, pad_examples(x, y, 64, 4), method="logits")
    square = np.square(new[:, None] - x[None]).mean((2, 3, 4))
    expected = [np.exp(-square / 2)[:, y == c].mean(1) for c in range(CLASSES)]
    np.testing.assert_allclose(logits[:CLASSES], expected, rtol=1e-4)
    assert (np.argmax(logits[:CLASSES], 0) == truth).mean() > 0.9
    assert not logits[CLASSES].any()


def test_input_gradients_of_the_logits_are_those_of_differences(fixture):
    _, _, module, initial = fixture
    changed, (x, y) = trained_features(initial), examples_of(1, 20)
    images, examples = x[:1].copy(), pad_examples(x, y, 32, 4)

    def logit(image):
        return module.apply({"params": changed}, image, examples, method="logits")[1, 0]

    gradient = jax.grad(logit)(jnp.asarray(images))
    step = np.zeros_like(images)
    step[0, 2, 1] = 1e-2
    slope = (logit(images + step) - logit(images - step)) / 2e-2
    assert float(slope) == pytest.approx(float(gradient[0, 2, 1, 0]), rel=0.05, abs=1e-5)


def test_the_images_given_are_not_changed(fixture):
    params, _, module, initial = fixture
    x, y = examples_of(2, 20)
    kept, inputs = x.copy(), np.array(params["inputs"])
    module.apply({"params": initial}, params["inputs"], Labeled(x[None], np.eye(3, dtype=np.float32)[y][None]))
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(params["inputs"], inputs)


def test_images_of_another_size_and_color_are_resized(fixture):
    params, _, module, initial = fixture
    x, y = examples_of(0, 30)
    large = np.asarray(fit_inputs(jnp.asarray(x), (9, 9, 1)))
    for images, same in (
        (x.repeat(3, axis=3), x),
        (large, np.asarray(fit_inputs(jnp.asarray(large), (SIZE, SIZE, 1)))),
    ):
        one, other = (embed_dataset(module, initial, ENCODER, params, shown, y) for shown in (images, same))
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    "x, y, reason",
    [
        (np.zeros((0, 4, 4, 1), np.float32), np.zeros(0, int), "x (0, 4, 4, 1)"),
        (np.zeros((4, 4, 4, 1), np.float32), np.zeros(3, int), "y (3,)"),
        (np.full((4, 4, 4, 1), np.nan, np.float32), np.arange(4) % 2, "not finite"),
        (np.zeros((4, 4, 4, 1), np.float32), np.zeros(4, int), "without an example"),
        (np.zeros((4, 4, 4, 1), np.float32), np.array([0, 2, 2, 0]), "without an example"),
        (np.zeros((4, 4, 4, 1), np.float32), np.array([-1, 0, 1, 1]), "without an example"),
    ],
)
def test_unusable_data_are_refused_in_one_line(fixture, x, y, reason):
    params, _, module, initial = fixture
    with pytest.raises(InputError) as error:
        embed_dataset(module, initial, ENCODER, params, x, y)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_saved_data_set_encoder_answers_the_same(fixture, tmp_path):
    params, _, module, initial = fixture
    changed = trained_features(initial)
    digest = save_dataset_encoder(tmp_path, module, changed, ENCODER, params)
    assert digest != save_dataset_encoder(tmp_path / "other", module, initial, ENCODER, params)
    assert sum(path.stat().st_size for path in tmp_path.glob("dataset_encoder.*")) < 1_000_000
    loaded, read = load_dataset_encoder(tmp_path, ENCODER, params)
    x, y = examples_of(3, 25)
    np.testing.assert_array_equal(
        embed_dataset(loaded, read, ENCODER, params, x, y), embed_dataset(module, changed, ENCODER, params, x, y)
    )


def test_another_encoder_s_or_a_damaged_data_set_encoder_is_refused(fixture, tmp_path):
    params, _, module, initial = fixture
    save_dataset_encoder(tmp_path, module, initial, ENCODER, params)
    with pytest.raises(InputError, match="another encoder"):
        load_dataset_encoder(tmp_path, ENCODER, {**params, "inputs": params["inputs"] + 1})
    (tmp_path / "dataset_encoder.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(InputError, match="no readable data-set encoder"):
        load_dataset_encoder(tmp_path, ENCODER, params)


def test_subsets_are_fixed_by_place_and_hold_every_class():
    data = {task: examples_of(task, 40) for task in range(2)}
    subsets = DataSets(data, np.arange(2), np.arange(10, 12), fewest=5, most=16, size=2, seed=3)
    batch, again = subsets.batch([1, 0]), subsets.batch([0])
    assert batch.images.shape == (3, 16, SIZE, SIZE, 1) and batch.labels.shape == (3, 16, CLASSES)
    np.testing.assert_array_equal(batch.images[1], again.images[0])
    assert (batch.labels[:2].sum(1) >= 1).all() and not batch.labels[2].any()


def test_query_map_is_one_where_networks_of_the_task_come_first():
    gallery, tasks = np.eye(3)[[0, 0, 1, 2]], np.array([0, 0, 1, 2])
    assert query_map(np.eye(3), np.arange(3), gallery, tasks) == 1
    assert query_map(np.eye(3), np.array([1, 2, 0]), gallery, tasks) < 0.7


@pytest.fixture(scope="module")
def fitted(fixture, tmp_path_factory):
    params, swept, _, _ = fixture
    config = get_config().encoder
    config.update(steps=30, validate_every=10, warmup_steps=2, batch_size=24, tasks_per_batch=6, learning_rate=3e-3)
    config.fewest_examples, config.most_examples, config.data_sets = 6, 32, 6
    tasks = np.repeat(np.arange(8), 4)
    orders = [list(range(CLASSES))] * len(tasks)
    known = Examples(tasks, np.arange(len(tasks)), np.zeros_like(tasks), np.ones(len(tasks), np.float32), orders)
    read = jax.jit(lambda networks: ENCODER.apply({"params": params}, networks, method="read").embedding)
    embedding = np.asarray(read(swept))
    data = {task: examples_of(task, 60 + task) for task in range(8)}
    before = jax.tree.map(np.copy, params)

    def fit(directory):
        places = np.flatnonzero(tasks < 6), np.flatnonzero(tasks >= 6)
        return fit_dataset_encoder(ENCODER, params, swept, embedding, known, *places, data, config, directory, 0)

    folders = [tmp_path_factory.mktemp("fit") for _ in range(2)]
    return before, params, [fit(folder)[1] for folder in folders], folders, fit


def test_fitting_lowers_the_loss_and_leaves_the_encoder_alone(fitted):
    before, params, _, folders, _ = fitted
    jax.tree.map(np.testing.assert_array_equal, before, params)
    rows = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


def test_fitting_is_fixed_by_its_seed_and_a_finished_run_is_not_repeated(fitted):
    _, _, (one, other), folders, fit = fitted
    jax.tree.map(np.testing.assert_array_equal, one, other)
    jax.tree.map(np.testing.assert_array_equal, one, fit(folders[0])[1])
