import json

import ml_collections
import numpy as np
import pytest
from small_zoo import SIZE, write_zoo

from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.training import response_cache
from wsrl.training.fit import init_params
from wsrl.training.response_cache import FILE, USABLE, load_kept, sweep_zoo

ENCODER = ResponseEncoder(probes=4, input_shape=(SIZE, SIZE, 1), dim=4, rank=2, gradient_probes=2, chunk=2)
BROKEN, REPEATED = 3, 7


def settings(window):
    return ml_collections.ConfigDict({"tile": 16, "window": window, "batch_cost": 2048, "slack": 50.0})


@pytest.fixture(scope="module")
def embedder():
    return Embedder(ENCODER)


@pytest.fixture(scope="module")
def params():
    inputs = np.random.default_rng(0).normal(size=(2, 4, SIZE, SIZE, 1)).astype(np.float32)
    return [init_params(ENCODER, own, seed) for seed, own in enumerate(inputs)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Nine networks, of which one file is damaged and one has the weights of another."""
    directory = tmp_path_factory.mktemp("zoo")
    records = write_zoo(directory, count=9)
    (directory / records[BROKEN].path).write_bytes(b"short")
    (directory / records[REPEATED].path).write_bytes((directory / records[1].path).read_bytes())
    return directory, records


def sweep(embedder, params, zoo, workdir, window=100, **options):
    return sweep_zoo(embedder, params, *zoo, settings(window), [workdir / f"encoder_{i}" for i in range(2)], **options)


@pytest.fixture(scope="module")
def whole(embedder, params, zoo, tmp_path_factory):
    """One window, and the folder that keeps what was found."""
    workdir = tmp_path_factory.mktemp("whole")
    return sweep(embedder, params, zoo, workdir), workdir


def check_equal(found, expected, atol=0.0):
    assert [record.id for record in found.records] == [record.id for record in expected.records]
    assert found.problems == expected.problems
    for ours, theirs in zip(found.swept, expected.swept, strict=True):
        for name in ("logits", "templates", "mask"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=atol, rtol=atol)


def test_usable_networks_are_swept_by_every_encoder(whole, zoo):
    found, _ = whole
    assert [record.id for record in found.records] == [
        record.id for i, record in enumerate(zoo[1]) if i not in (BROKEN, REPEATED)
    ]
    assert found.buckets == [] and len(found.problems) == 2
    assert found.problems[0].startswith(zoo[1][BROKEN].id) and zoo[1][1].id in found.problems[1]
    for swept in found.swept:
        assert swept.logits.shape == (7, 5, 4) and swept.templates.shape == (7, 5, SIZE * SIZE)
        np.testing.assert_array_equal(swept.mask.sum(1), [5, 3, 5, 3, 5, 5, 5])
    assert not np.allclose(found.swept[0].logits, found.swept[1].logits)


@pytest.mark.parametrize("window", [1, 4])
def test_windows_change_nothing(embedder, params, zoo, whole, tmp_path, window):
    check_equal(sweep(embedder, params, zoo, tmp_path, window), whole[0], atol=1e-5)


def test_shards_hold_the_same(embedder, params, zoo, whole, tmp_path):
    records = write_zoo(tmp_path / "zoo", "array_record", count=9)
    kept = [i for i in range(9) if i not in (BROKEN, REPEATED)]
    found = sweep(embedder, params, (tmp_path / "zoo", [records[i] for i in kept]), tmp_path, 4)
    assert found.problems == []
    check_equal(found._replace(problems=whole[0].problems), whole[0], atol=1e-5)


def test_graphs_are_returned_where_they_are_asked_for_and_nothing_is_kept(embedder, params, zoo, whole, tmp_path):
    found = sweep(embedder, params, zoo, tmp_path, 1, keep_graphs=True)
    check_equal(found, whole[0], atol=1e-5)
    members = np.concatenate([bucket.members for bucket in found.buckets])
    np.testing.assert_array_equal(np.sort(members), np.arange(7))
    assert not list(tmp_path.iterdir())


def test_what_was_kept_is_taken_again_without_reading_the_zoo(embedder, params, zoo, whole, monkeypatch):
    expected, workdir = whole
    monkeypatch.setattr(response_cache, "stream_networks", lambda *_, **__: pytest.fail("the zoo is read"))
    check_equal(sweep(embedder, params, zoo, workdir), expected)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (f"encoder_1/{FILE}", lambda content: content[:-8]),
        (f"encoder_0/{FILE}", lambda content: b""),
        (f"encoder_0/{FILE}", lambda content: content.replace(b'"templates"', b'"relevance"')),
        (USABLE, lambda content: content[: len(content) // 2]),
        (USABLE, lambda content: b"{}"),
        (USABLE, lambda content: b"[]"),
        (USABLE, lambda content: content.replace(b'"of": 9', b'"of": 8')),
        (USABLE, lambda content: content.replace(b"model-0", b"model-x")),
        (USABLE, None),
    ],
)
def test_what_was_kept_and_damaged_is_made_again(zoo, whole, tmp_path, file, damage):
    _, workdir = whole
    directories = [tmp_path / f"encoder_{i}" for i in range(2)]
    for directory in directories:
        directory.mkdir()
    for name in (USABLE, *(f"{directory.name}/{FILE}" for directory in directories)):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    assert load_kept(zoo[1], directories) is not None
    if damage is None:
        (tmp_path / file).unlink()
    else:
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(damage(content))
        assert (tmp_path / file).read_bytes() != content
    assert load_kept(zoo[1], directories) is None


def test_it_is_made_again_in_place(embedder, params, zoo, whole, tmp_path):
    directories = [tmp_path / f"encoder_{i}" for i in range(2)]
    for directory in directories:
        directory.mkdir()
        (directory / FILE).write_bytes(b"short")
    (tmp_path / USABLE).write_text(json.dumps({"ids": [], "problems": [], "of": 9}))
    check_equal(sweep(embedder, params, zoo, tmp_path), whole[0], atol=1e-5)
    kept = load_kept(zoo[1], directories)
    assert kept is not None
    check_equal(kept, whole[0], atol=1e-5)
