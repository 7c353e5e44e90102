import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import Swept
from wsrl.training import discriminant_analysis
from wsrl.training.discriminant_analysis import fit_readout, product_metric, response_basis, task_means
from wsrl.training.fit import init_params
from wsrl.training.sampling import Examples, class_map_array, draw_class_map

CLASSES, PROBES, TASKS = 4, 12, 6
ENCODER = ResponseEncoder(probes=PROBES, input_shape=(3, 3, 1), dim=5, rank=4)


def networks(count: int, seed: int = 0) -> tuple[Swept, Examples]:
    """Networks of a few tasks, each with the responses of its task and noise, classes in an order of its own."""
    rng = np.random.default_rng(seed)
    logits, templates = rng.normal(size=(TASKS, CLASSES, PROBES)), rng.normal(size=(TASKS, CLASSES, 9))
    task = np.arange(count) % TASKS
    orders = [rng.permutation(CLASSES).tolist() for _ in range(count)]
    own = [np.stack([of[t][o] for t, o in zip(task, orders, strict=True)]) for of in (logits, templates)]
    own = [(array + rng.normal(0, 0.4, array.shape)).astype(np.float32) for array in own]
    swept = Swept(*own, np.ones((count, CLASSES), np.float32))
    return swept, Examples(task, np.arange(count), np.zeros(count, int), np.ones(count, np.float32), orders)


def cosines(params: dict, swept: Swept) -> np.ndarray:
    encoder = ENCODER.clone(dim=params["responses"]["metric"].shape[1])
    embedding = encoder.apply({"params": params}, Swept(*map(jnp.asarray, swept)), method="embed")
    return np.asarray(embedding) @ np.asarray(embedding).T


@pytest.mark.parametrize("dim", [5, 16])  # 16: more than there are products, the rest is zero
@pytest.mark.parametrize("known", [True, False])
def test_fitted_readout_finds_the_task_of_other_networks(dim, known):
    swept, examples = networks(90)
    if not known:
        examples = examples._replace(class_order=[None] * 90)
    params = {"inputs": jnp.zeros((PROBES, 3, 3, 1))}
    fitted = fit_readout(ENCODER.clone(dim=dim), params, swept, examples, np.arange(60), shrinkage=1.0)
    assert fitted["inputs"] is params["inputs"]
    assert fitted["responses"]["metric"].shape == (10, dim)
    found = examples.task[cosines(fitted, swept)[60:, :60].argmax(1)]
    assert (found == examples.task[60:]).mean() > 0.9


def test_only_training_networks_decide():
    swept, examples = networks(40)
    params = {"inputs": jnp.zeros((PROBES, 3, 3, 1))}
    fitted = fit_readout(ENCODER, params, swept, examples, np.arange(30), shrinkage=1.0)
    changed = swept._replace(logits=np.concatenate([swept.logits[:30], -swept.logits[30:]]))
    again = fit_readout(ENCODER, params, changed, examples, np.arange(30), shrinkage=1.0)
    for key, value in fitted["responses"].items():
        np.testing.assert_array_equal(value, again["responses"][key])


def test_directions_prefer_what_networks_of_one_task_agree_on():
    rng = np.random.default_rng(0)
    task = np.arange(60) % TASKS
    orders = [rng.permutation(CLASSES).tolist() for _ in task]
    agreed = rng.normal(size=(TASKS, CLASSES))
    responses = np.zeros((60, CLASSES, 3), np.float32)
    responses[:, :, 0] = 3 * rng.normal(size=(60, CLASSES))  # noise, louder than what is agreed on
    responses[:, :, 1] = np.stack([agreed[t][o] for t, o in zip(task, orders, strict=True)])
    (first,) = response_basis(responses, task, orders, 1).T
    assert np.abs(first).argmax() == 1 and np.abs(first[0]) < 0.4 * np.abs(first[1])
    (loudest,) = response_basis(responses, task, [None] * 60, 1).T
    assert np.abs(loudest).argmax() == 0
    assert response_basis(responses, task, orders, 5).shape == (3, 5)


def test_metric_whitens_the_scatter_within_tasks():
    rng = np.random.default_rng(1)
    task = np.arange(600) % TASKS
    products = rng.normal(size=(TASKS, 4))[task] + rng.normal(size=(600, 4)) * [0.1, 1, 2, 3]
    centre, metric = product_metric(products, task, dim=4, shrinkage=0.0)
    means = np.stack([products[task == t].mean(0) for t in range(TASKS)])
    np.testing.assert_allclose(centre, means.mean(0))
    deviations = (products - means[task]) @ metric
    np.testing.assert_allclose(deviations.T @ deviations / 600, np.eye(4), atol=1e-8)
    variance = ((products - centre) @ metric).var(0)
    assert (np.diff(variance) <= 0).all()  # principal components, the largest first


NOISY = ResponseEncoder(probes=24, input_shape=(4, 4, 1), dim=32, rank=16, chunk=8)
SEEN = np.arange(360)  # networks of the first 30 tasks of `noisy`


@pytest.fixture(scope="module")
def noisy():
    """Networks of 40 tasks: of every class of a task a pattern, and noise that is stronger but the same in kind."""
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=(2, 8, 40))
    task, orders, responses = np.repeat(np.arange(40), 12), [], []
    patterns = rng.normal(size=(40, 5, 8))
    for own in task:
        orders.append(rng.permutation(5).tolist())
        responses.append((patterns[own] @ signal + 2.0 * rng.normal(size=(5, 8)) @ noise)[orders[-1]])
    responses = np.pad(np.stack(responses), [(0, 0), (0, 1), (0, 0)]).astype(np.float32)
    mask = np.tile(np.float32([1, 1, 1, 1, 1, 0]), (480, 1))
    swept = Swept(responses[:, :, :24], responses[:, :, 24:], mask)
    return swept, Examples(task, np.arange(480), np.zeros(480, int), np.ones(480, np.float32), orders)


@pytest.fixture(scope="module")
def initial():
    return init_params(NOISY, np.zeros((24, 4, 4, 1), np.float32), 0)


@jax.jit
def embed(params, swept, class_map):
    return NOISY.apply({"params": params}, swept, class_map, method="embed")


def neighbors(params, noisy, label, maps):
    """Share of the networks of unseen tasks whose nearest neighbor has the same label."""
    vectors = np.asarray(embed(params, noisy[0].at(slice(len(SEEN), None)), maps))
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return float((label[similarity.argmax(1)] == label).mean())


def test_classes_that_were_never_seen_are_told_apart_far_better_than_at_first(noisy, initial):
    swept, examples = noisy
    fitted = fit_readout(NOISY, initial, swept, examples, SEEN, shrinkage=1.0)
    task, orders = examples.task[len(SEEN) :], examples.class_order[len(SEEN) :]
    whole = np.tile(np.eye(6, dtype=np.float32), (len(task), 1, 1))
    assert neighbors(initial, noisy, task, whole) < 0.5
    assert neighbors(fitted, noisy, task, whole) > 0.9
    # so are tasks of merged and left out classes, two of each task
    rng, turn = np.random.default_rng(5), np.arange(len(task)) % 2
    drawn = [draw_class_map(5, 1.0, 1.0, rng) for _ in range(2)]
    maps = np.stack([class_map_array(drawn[t], order, 6) for t, order in zip(turn, orders, strict=True)])
    assert neighbors(initial, noisy, 2 * task + turn, maps) < 0.5
    assert neighbors(fitted, noisy, 2 * task + turn, maps) > 0.7


def test_only_the_read_out_of_responses_changes_and_again_in_the_same_way(noisy, initial, monkeypatch):
    fitted, again = (fit_readout(NOISY, initial, *noisy, SEEN, shrinkage=1.0) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, fitted, again)
    assert jax.tree.map(np.shape, fitted) == jax.tree.map(np.shape, initial)
    for part in initial.keys() - {"responses"}:
        jax.tree.map(np.testing.assert_array_equal, fitted[part], initial[part])
    monkeypatch.setattr(discriminant_analysis, "BLOCK", 100)
    whole = np.tile(np.eye(6, dtype=np.float32), (480, 1, 1))
    blocks = fit_readout(NOISY, initial, *noisy, SEEN, shrinkage=1.0)
    vectors = [np.asarray(embed(params, noisy[0], whole)) for params in (fitted, blocks)]
    np.testing.assert_allclose(vectors[0] @ vectors[0].T, vectors[1] @ vectors[1].T, atol=1e-3)


def test_class_orders_may_be_known_of_some_networks(noisy, initial):
    swept, examples = noisy
    orders = [order if place % 2 else None for place, order in enumerate(examples.class_order)]
    fitted = fit_readout(NOISY, initial, swept, examples._replace(class_order=orders), SEEN, shrinkage=1.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))


def test_means_of_tasks():
    values, task = np.array([[1.0, 0.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1])
    np.testing.assert_array_equal(task_means(values, task)[task], [[3, 3], [3, 4], [3, 3]])
