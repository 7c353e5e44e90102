from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from claim_networks import NETWORKS, convolutional, permute, transformer

import wsrl.embedding
from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.embedding import embed_files
from wsrl.errors import InputError


@pytest.fixture
def files(tmp_path):
    """Six files of two architectures in turn, and a `wire` that knows both."""
    claims, paths = {}, []
    for i in range(6):
        checkpoint, claim = (transformer, convolutional)[i % 2](i)
        claims[frozenset(claim.shapes)] = claim
        paths.append(str(tmp_path / f"{i}.safetensors"))
        safetensors.numpy.save_file(dict(checkpoint.tensors), paths[-1])
    return paths, lambda checkpoint: claims[frozenset(checkpoint.tensors)]


def test_streaming_and_stacking_agree(files, monkeypatch):
    paths, wire = files
    stacked = embed_files(paths, wire)
    streamed = embed_files(paths, wire, small=0)
    assert stacked.ids == streamed.ids == paths and not stacked.broken
    np.testing.assert_allclose(streamed.vectors, stacked.vectors, atol=1e-5)
    assert stacked.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(stacked.vectors, axis=1), 1, rtol=1e-6)
    monkeypatch.setattr(wsrl.embedding, "STACK", 2)
    monkeypatch.setattr(wsrl.embedding, "PENDING", 5000)
    np.testing.assert_allclose(embed_files(paths, wire).vectors, stacked.vectors, atol=1e-5)
    np.testing.assert_allclose(embed_files(paths[::-1], wire).vectors, stacked.vectors[::-1], atol=1e-5)


def test_an_architecture_is_wired_once(files):
    paths, wire = files
    calls = []
    embed_files(paths, lambda checkpoint: calls.append(checkpoint) or wire(checkpoint))
    assert len(calls) == 2


def test_half_precision_and_order_of_tensors_do_not_matter(tmp_path):
    checkpoint, claim = transformer()
    half = {n: t.astype(np.float16) for n, t in reversed(checkpoint.tensors.items())}
    full = {n: t.astype(np.float32) for n, t in half.items()}
    paths = [str(tmp_path / name) for name in ("half.safetensors", "full.safetensors")]
    safetensors.numpy.save_file(half, paths[0])
    safetensors.numpy.save_file(full, paths[1])
    for small in (0, 10**6):
        vectors = embed_files(paths, lambda _: claim, small=small).vectors
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize("small", [0, 10**6])
def test_broken_files_are_told_of_and_left_out(files, small):
    paths, wire = files
    with open(paths[2], "r+b") as file:
        file.truncate(300)
    values = safetensors.numpy.load_file(paths[3])
    values["4.weight"][0, 0, 0, 0] = np.nan
    safetensors.numpy.save_file(values, paths[3])
    values = safetensors.numpy.load_file(paths[4])
    for value in values.values():
        value[...] = 1e30
    safetensors.numpy.save_file(values, paths[4])
    found = embed_files(paths, wire, skip_broken=True, small=small)
    assert found.ids == [paths[i] for i in (0, 1, 4, 5)]
    assert [error.file for error in found.broken] == [paths[i] for i in (2, 3)]
    assert "NaN" in str(found.broken[1]) and np.isfinite(found.vectors).all()
    np.testing.assert_allclose(found.vectors, embed_files(found.ids, wire).vectors, atol=1e-5)
    with pytest.raises(CheckpointError, match=r"2\.safetensors"):
        embed_files(paths, wire, small=small)


def test_all_broken_gives_no_vectors(tmp_path):
    found = embed_files([str(tmp_path / "missing")], skip_broken=True)
    assert found.ids == [] and found.vectors.shape == (0, 256) and len(found.broken) == 1


def test_ids_must_differ(files):
    paths, wire = files
    with pytest.raises(InputError, match="more than once"):
        embed_files([*paths, paths[0]], wire)
    with pytest.raises(InputError, match="no checkpoint"):
        embed_files([], wire)


def test_memory_stays_bounded(monkeypatch):
    """A large tensor is asked for in pieces of the set size."""
    checkpoint, claim = transformer()
    asked = []

    def lazy(name, values):
        def read(start, stop):
            asked.append(int(np.prod(values[start:stop].shape)))
            return values[start:stop]

        return LazyTensor(values.shape, "float32", read, "made", name)

    lazies = {n: lazy(n, t) for n, t in checkpoint.tensors.items()}
    opened = replace(checkpoint, tensors=lazies)
    monkeypatch.setattr(wsrl.embedding, "open_checkpoint", lambda source: opened)
    vector = embed_files(["made"], lambda _: claim, small=0).vectors
    whole = max(asked)
    asked.clear()
    architecture = wsrl.embedding._Run(["made"], lambda _: claim, 0, False)._architecture(opened)
    pieces = wsrl.embedding.embed_streamed(opened, architecture.canonicalize, architecture.schedule, entries=40)
    np.testing.assert_allclose(pieces, vector[0], atol=1e-5)
    assert whole == 24 * 16 and max(asked) <= 24 * 16


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_goes_both_ways(name, tmp_path):
    checkpoint, claim = NETWORKS[name]()
    paths = []
    for i, moved in enumerate((checkpoint, permute(checkpoint, claim, 1))):
        paths.append(str(tmp_path / f"{i}.safetensors"))
        safetensors.numpy.save_file(dict(moved.tensors), paths[-1])
    vectors = [embed_files(paths, lambda _: claim, small=small).vectors for small in (0, 10**6)]
    assert np.abs(np.concatenate(vectors) - vectors[0][0]).max() < 1e-5


def test_empty_and_scalar_tensors_are_passed_over():
    checkpoint, claim = transformer()
    more = {"scale": np.float32(3).reshape(()), "none.weight": np.zeros((0, 4), np.float32)}
    shapes = {**claim.shapes, **{n: t.shape for n, t in more.items()}}
    axes = {**claim.axes, "scale": (), "none.weight": (None, None)}
    wider = replace(claim, shapes=shapes, axes=axes)
    run = wsrl.embedding._Run(["made"], lambda _: wider, 0, False)
    larger = Checkpoint("made", {**checkpoint.tensors, **more}, {})
    architecture = run._architecture(larger)
    vector = wsrl.embedding.embed_streamed(larger, architecture.canonicalize, architecture.schedule)
    assert np.isfinite(vector).all()
