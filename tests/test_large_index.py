"""Indexes whose segments are large: sixteen bits, candidates, additions, damage. What counts as large is set low."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from fake_encoder import FakeEncoder, write_model

from wsrl.search import commit, derive, searcher, segment, vectors
from wsrl.search.catalog import Catalog
from wsrl.search.index import Index
from wsrl.search.manifest import _digest

LARGE = 40
GRAPHS = find_spec("rabitqlib") is not None


@pytest.fixture
def index(tmp_path, monkeypatch) -> Index:
    for module in (commit, derive, searcher, segment, vectors):
        monkeypatch.setattr(module, "BRUTE_FORCE_BELOW", LARGE)
    for seed in range(60):
        write_model(tmp_path / "models" / f"{seed}.safetensors", seed, architecture=f"kind {seed % 2}")
    return Index.build(FakeEncoder(), tmp_path / "models", tmp_path / "index")


def test_vectors_take_sixteen_bits_and_are_read_back(index):
    (file,) = index.directory.glob("weights-*[0-9].npy")
    assert np.load(file).dtype == np.int16 and index.verify() == []
    for row in FakeEncoder().embed(index.ids):
        np.testing.assert_allclose(index.get(row.id).weights, row.weights, atol=2e-5)
        np.testing.assert_allclose(index.get(row.id).function, row.function, atol=2e-5)
    assert len(list(index.directory.glob("*.graph"))) == (2 if GRAPHS else 0)


@pytest.mark.parametrize("by", ["weights", "function"])
def test_what_is_added_is_found_before_it_is_merged(index, tmp_path, by):
    for seed in range(3):
        write_model(tmp_path / "more" / f"{seed}.safetensors", 100 + seed)
    index.add(FakeEncoder(), tmp_path / "more")
    index.remove(index.ids[:2])
    for opened in (index, Index.open(index.directory)):
        for name in (opened.ids[0], opened.ids[-1]):
            hits = opened.search(name, 10, by)
            assert hits[0].id == name and hits[0].score == 1
            assert [hit.id for hit in hits] == [hit.id for hit in opened.search(name, 10, by, exact=True)]
        assert opened.explanation.index == "exact"
        opened.search(name, 10, by)
        assert opened.explanation.unindexed == (3 if opened.explanation.index != "exact" else 0)
        assert opened.explanation.models == 61


def test_models_that_are_added_to_many_have_a_database_of_their_own(index, tmp_path):
    first = index._store.manifest.databases
    for number, (new, counts) in enumerate([(3, [60, 3]), (3, [60, 6]), (40, [60, 46]), (40, [60, 46, 40])]):
        for seed in range(new):
            write_model(tmp_path / f"more {number}" / f"{seed}.safetensors", 100 * (number + 1) + seed)
        index.add(FakeEncoder(), tmp_path / f"more {number}")
        assert [part.models for part in index._store.parts] == counts
        assert index._store.manifest.databases[0] == first[0] and index.verify() == []
        opened = Index.open(index.directory)
        assert opened.ids == index.ids and opened.search(opened.ids[-1], 1, "weights")[0].id == opened.ids[-1]
    index.annotate(index.ids[-1], {"note": "x"})
    assert len(index._store.parts) == 1 and index.metadata(index.ids[-1])["note"] == "x" and len(index) == 146


def test_a_database_that_is_damaged_is_made_again(index, tmp_path):
    write_model(tmp_path / "more.safetensors", 100)
    index.add(FakeEncoder(), tmp_path / "more.safetensors")
    index.directory.joinpath(index._store.manifest.databases[1]).write_bytes(b"x")
    (damage,) = index.verify()
    assert damage.part == "models"
    Index.repair(index.directory, FakeEncoder())
    mended = Index.open(index.directory)
    assert mended.verify() == [] and len(mended) == 61


def test_an_index_of_the_version_before_is_read(index):
    manifest = index.directory / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["version"], (content["database"],) = 2, content.pop("databases")
    del content["digest"]
    manifest.write_text(json.dumps({**content, "digest": _digest(content)}))
    assert Index.open(index.directory).ids == index.ids


def test_a_filter_is_read_once(index, monkeypatch):
    where = ["architecture=kind 1"]
    hits = index.search(index.ids[0], 5, "weights", where=where)
    searched = index._searcher._segments.parts[0][0]
    kept = searched._places._last
    monkeypatch.setattr(Catalog, "column", None)
    assert index.search(index.ids[0], 5, "weights", where=where) == hits
    assert kept is not None and searched._places._last is kept and not kept[0].flags.writeable


def test_groups_and_conditions(index):
    every = index.search(index.ids[0], 60, "weights", exact=True)
    assert [hit.id for hit in index.search(index.ids[0], 60, "weights")] == [hit.id for hit in every]
    grouped = index.search(index.ids[0], 2, "weights", group_by="architecture")
    first = {hit.architecture: hit.id for hit in reversed(every)}
    assert [hit.id for hit in grouped] == [hit.id for hit in every if first[hit.architecture] == hit.id]
    kept = index.search(index.ids[0], 60, "weights", where=["architecture=kind 1"])
    assert [hit.id for hit in kept] == [hit.id for hit in every if hit.architecture == "kind 1"]
    both = index.search(index.ids[:2], 5, "weights", against=index.ids[9])
    assert 0 < len(both) <= 5 and index.ids[9] not in {hit.id for hit in both}


@pytest.mark.skipif(not GRAPHS, reason="extra `graph`")
def test_a_damaged_graph_is_made_again(index):
    file = next(index.directory.glob("weights-*.graph"))
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    (damage,) = index.verify()
    assert (damage.part, damage.models) == ("graph", 60)
    encoder = FakeEncoder()
    Index.repair(index.directory, encoder)
    assert not encoder.embedded and Index.open(index.directory).verify() == []


def test_reopening_takes_over_what_has_not_changed(index):
    index.search(index.ids[0], 3, "weights")
    other = Index.open(index.directory)
    other.remove(other.ids[5:6])
    before = index._searcher._segments.parts[0][0]
    index.reopen()
    assert len(index) == 59 and index.search(index.ids[0], 3, "weights")
    assert index._searcher._segments.parts[0][0] is before
