import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from wsrl import gallery as gallery_module
from wsrl.data import load_image_set, normalize
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import Encoder
from wsrl.encoder.fit import init_params
from wsrl.errors import InputError
from wsrl.gallery import open_gallery
from wsrl.recommend.answer import rank_by_logme, recommend
from wsrl.recommend.examples import load_examples
from wsrl.recommend.probes import Query, as_checkpoint, probe_query, train_probes
from wsrl.zoo.manifest import MANIFEST, Record, append_records
from wsrl.zoo.models import MLP

SIZE = 8
MODEL = MLP("relu", widths=(16,))
ENCODER = Encoder(probes=32, input_shape=(SIZE, SIZE, 1), dim=32, chunk=8)
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
    from wsrl.recommend import probes

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
def encoder():
    images = load_image_set("digits", image_size=SIZE)
    inputs = normalize(images.x[np.random.default_rng(0).permutation(len(images.x))[:32]])[..., None]
    return Embedder(ENCODER), init_params(ENCODER, inputs, 0)


@pytest.fixture(scope="module")
def opened(zoo, encoder):
    return open_gallery(zoo, *encoder)


@pytest.mark.parametrize("task", TASKS)
def test_probes_find_the_models_of_their_task(opened, encoder, task):
    images = task_images(task)
    few = np.random.default_rng(0).permutation(len(images.y))[:150]
    images = dataclasses.replace(images, x=images.x[few], y=images.y[few], held_out=images.held_out[few])
    query = probe_query(train_probes(images, **PROBES), *encoder)
    assert query.vectors.shape == (6, 32) and query.accuracy is not None and query.accuracy > 0.8
    answer = recommend(opened, query)
    assert [hit.record.task for hit in answer.hits][:3] == [task] * 3
    assert answer.tasks[0][0] == task and answer.tasks[0][1] > answer.tasks[1][1]
    similarity = [hit.similarity for hit in answer.hits]
    assert similarity == sorted(similarity, reverse=True)
    accuracies = [hit.record.accuracy for hit in answer.hits]
    assert min(accuracies) <= answer.expected_accuracy <= max(accuracies)


def test_probes_follow_from_the_seed(encoder):
    images = task_images("low")
    first, again, other = (train_probes(images, seed, **PROBES) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.graphs[0].edges["weight"], again.graphs[0].edges["weight"])
    assert not np.array_equal(first.graphs[0].edges["weight"], other.graphs[0].edges["weight"])
    weights = [graph.edges["weight"] for graph in first.graphs]
    assert not np.array_equal(weights[0], weights[1])


def test_embeddings_are_made_once_and_broken_models_told_each_time(zoo, encoder, opened, monkeypatch):
    assert len(opened.records) == 6 and len(opened.problems) == 1 and "broken" in opened.problems[0]
    monkeypatch.setattr(gallery_module, "_embed", None)
    again = open_gallery(zoo, *encoder)
    assert again.problems == opened.problems
    assert [r.id for r in again.records] == [r.id for r in opened.records]
    np.testing.assert_array_equal(again.vectors, opened.vectors)


@pytest.mark.parametrize("change", ["manifest", "damage", "encoder"])
def test_embeddings_of_another_zoo_or_encoder_are_not_used(zoo, encoder, opened, tmp_path, monkeypatch, change):
    for path in zoo.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    embedder, params = encoder
    made = []
    embed = gallery_module._embed
    monkeypatch.setattr(gallery_module, "_embed", lambda *args: made.append(1) or embed(*args))
    if change == "manifest":
        (tmp_path / MANIFEST).write_text((tmp_path / MANIFEST).read_text().replace('"low2"', '"renamed"'))
    elif change == "damage":
        next(tmp_path.glob("embeddings-*")).write_bytes(b"PK\x03\x04")
    else:
        params = {**params, "inputs": params["inputs"] * 0.5}
    assert len(open_gallery(tmp_path, embedder, params).records) == 6 and made == [1]
    names = [record.id for record in open_gallery(tmp_path, embedder, params).records]
    assert made == [1] and ("renamed" in names) == (change == "manifest")


def test_a_zoo_that_cannot_be_written_is_answered_all_the_same(zoo, encoder, tmp_path, monkeypatch):
    for path in zoo.glob("[!e]*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(gallery_module, "write_atomically", refuse)
    found = open_gallery(tmp_path, *encoder)
    assert len(found.records) == 6 and any("not kept (Permission denied)" in line for line in found.problems)


def test_logme_ranks_models_of_the_task_first(zoo, opened):
    images = task_images("high")
    query = Query(-opened.vectors[:3], opened.kinds[:3], None)  # away from the models of "low", in whatever order
    hits = recommend(opened, query).hits
    ranked = rank_by_logme(hits, zoo, images)
    assert sorted(hit.record.id for hit in ranked) == sorted(hit.record.id for hit in hits)
    assert [hit.record.task for hit in ranked][:3] == ["high"] * 3
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
