import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from wsrl.data import load_image_set, normalize
from wsrl.encoder import checkpoint_encoder
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import load_encoder, save_encoder
from wsrl.errors import InputError
from wsrl.recommendation.answer import rank_by_logme, rank_by_similarity
from wsrl.recommendation.examples import load_examples
from wsrl.recommendation.probes import Query, as_checkpoint, probe_query, train_probes
from wsrl.search.index import Index
from wsrl.training.fit import init_params
from wsrl.zoo.manifest import Record, append_records
from wsrl.zoo.models import MLP

SIZE = 8
MODEL = MLP("relu", widths=(16,))
ENCODER = ResponseEncoder(probes=32, input_shape=(SIZE, SIZE, 1), dim=32, chunk=8)
TASKS = {"low": lambda y: np.where(y < 3, y, -1), "high": lambda y: np.where(y > 6, y - 7, -1)}
PROBES = {"architectures": (MODEL,), "each": 6, "steps": 60}  # as many as the zoo holds: one compiled program


def task_images(name):
    """Images of three digits."""
    images = load_image_set("digits", image_size=SIZE)
    labels = TASKS[name](images.y)
    kept = labels >= 0
    return dataclasses.replace(
        images, name=name, x=images.x[kept], y=labels[kept], classes=3, held_out=images.held_out[kept]
    )


def write_zoo(folder):
    """Three networks a task, and one broken file."""
    from wsrl.recommendation import probes

    for name in TASKS:
        images = task_images(name)
        model = MODEL.clone(num_classes=3)
        trained, accuracies = probes._train(model, images, [7, 8, 9], 60)
        records = []
        for i, (variables, accuracy) in enumerate(zip(trained, accuracies, strict=True)):
            checkpoint = as_checkpoint(model, variables, SIZE)
            told = {"activation": "relu", "input_shape": f"{SIZE},{SIZE},1"}
            safetensors.numpy.save_file(
                {k: np.asarray(v) for k, v in checkpoint.tensors.items()}, folder / f"{name}{i}.safetensors", told
            )
            records.append(record(f"{name}{i}", name, float(accuracy)))
        append_records(folder, records)
    (folder / "broken.safetensors").write_bytes(b"no checkpoint")
    append_records(folder, [record("broken", "low", 0.5)])


def record(name, task, accuracy):
    path = f"{name}.safetensors"
    return Record(name, path, task, "digits", "mlp", "relu", 0, None, 60, accuracy, None, {})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of an encoder, and what is in it."""
    images = load_image_set("digits", image_size=SIZE)
    inputs = normalize(images.x[np.random.default_rng(0).permutation(len(images.x))[:32]])[..., None]
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder, ENCODER, init_params(ENCODER, inputs, 0))
    return folder, *load_encoder(folder)


@pytest.fixture(scope="module")
def index(zoo, encoder, tmp_path_factory):
    return Index.build(checkpoint_encoder.load_encoder(encoder[0]), zoo, tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def opened(index):
    return index.functional()


@pytest.mark.parametrize("task", TASKS)
def test_probes_find_the_models_of_their_task(opened, encoder, task):
    images = task_images(task)
    few = np.random.default_rng(0).permutation(len(images.y))[:150]
    images = dataclasses.replace(images, x=images.x[few], y=images.y[few], held_out=images.held_out[few])
    query = probe_query(train_probes(images, **PROBES), Embedder(encoder[1]), encoder[2])
    assert query.vectors.shape == (6, 32) and query.accuracy is not None and query.accuracy > 0.8
    answer = rank_by_similarity(opened, query)
    assert [hit.metadata["task"] for hit in answer.hits][:3] == [task] * 3
    assert answer.tasks[0][0] == task and answer.tasks[0][1] > answer.tasks[1][1]
    similarity = [hit.similarity for hit in answer.hits]
    assert similarity == sorted(similarity, reverse=True)
    accuracies = [hit.accuracy for hit in answer.hits]
    assert min(accuracies) <= answer.expected_accuracy <= max(accuracies)


def test_probes_follow_from_the_seed(encoder):
    images = task_images("low")
    first, again, other = (train_probes(images, seed, **PROBES) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.graphs[0].edges.weight, again.graphs[0].edges.weight)
    assert not np.array_equal(first.graphs[0].edges.weight, other.graphs[0].edges.weight)
    weights = [graph.edges.weight for graph in first.graphs]
    assert not np.array_equal(weights[0], weights[1])


def test_broken_models_are_left_out(index, opened):
    assert len(opened.ids) == 6 and len(index.changes.problems) == 1 and "broken" in str(index.changes.problems[0])


def test_logme_ranks_models_of_the_task_first(index, opened):
    images = task_images("high")
    query = Query(
        -opened.vectors[:3], opened.architectures[:3], None
    )  # away from the models of "low", in whatever order
    hits = rank_by_similarity(opened, query).hits
    ranked = rank_by_logme(hits, index, images)
    assert sorted(hit.id for hit in ranked) == sorted(hit.id for hit in hits)
    assert [hit.metadata["task"] for hit in ranked][:3] == ["high"] * 3
    scores = [hit.logme or np.nan for hit in ranked]
    assert scores == sorted(scores, reverse=True)


def test_classes_of_examples_are_those_that_occur(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "task.npz"
    np.savez(path, x=rng.integers(0, 256, (40, 5, 5)).astype(np.uint8), y=np.tile([2, 7], 20))
    images = load_examples(str(path), None, SIZE, 100, 0)
    assert images.classes == 2 and set(images.y) == {0, 1} and images.x.shape == (40, SIZE, SIZE)
    np.savez(path, x=rng.integers(0, 256, (40, 5, 5)).astype(np.uint8), y=np.full(40, 3))
    with pytest.raises(InputError, match="one class"):
        load_examples(str(path), None, SIZE, 100, 0)
    np.savez(path, x=np.zeros((10, 5, 5), np.uint8), y=np.tile([0, 1], 5))
    with pytest.raises(InputError, match="too few different images"):
        load_examples(str(path), None, SIZE, 100, 0)
