import csv
import json

import numpy as np
import pytest
from fake_encoder import FakeEncoder, write_model

from experiments.scale import datasets, soak, table, whole_index
from experiments.scale.__main__ import main
from experiments.scale.datasets import FAMILIES, HARD, dataset
from experiments.scale.families import LARGEST, draw_families, family_sizes, measure_families
from experiments.scale.measures import recall_of_queries
from wsrl.errors import InputError
from wsrl.search.fixed_point import single
from wsrl.search.index import Index

DIM = 16


@pytest.fixture
def real() -> np.ndarray:
    """Twenty pairs of relatives, and their copies."""
    rng = np.random.default_rng(0)
    parents = rng.normal(size=(20, DIM))
    vectors = np.concatenate([parents, parents + 0.2 * rng.normal(size=parents.shape)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.concatenate([vectors, vectors])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    for seed in range(60):
        write_model(folder / "models" / f"{seed}.safetensors", seed)
    Index.build(FakeEncoder(), folder / "models", folder / "index")
    return folder / "index"


def test_sizes_of_families_follow_a_power_law():
    sizes = family_sizes(100_000, np.random.default_rng(0))
    assert sizes.sum() == 100_000 and sizes.min() >= 1 and 500 < sizes.max() <= LARGEST * 100_000
    for least in (2, 5, 20):
        assert (sizes >= least).mean() == pytest.approx(1 / least, rel=0.1)


def test_children_lie_at_measured_distances(real):
    spread = measure_families(real)
    assert len(spread.parents) == 40 and len(spread.cosines) == 40  # copies count once
    blocks = list(draw_families(spread, 3000, np.random.default_rng(1)))
    vectors, family = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(vectors) == 3000 and (np.diff(family) >= 0).all() and family[-1] == len(np.unique(family)) - 1
    pairs = np.flatnonzero((np.bincount(family) == 2)[family])
    cosine = (vectors[pairs[::2]] * vectors[pairs[1::2]]).sum(1)
    np.testing.assert_allclose(np.sort(cosine)[[0, -1]], [spread.cosines.min(), spread.cosines.max()], atol=0.02)
    assert any(np.isclose(vectors[0], parent, atol=1e-6).all() for parent in spread.parents)


def test_vectors_without_relatives_are_refused():
    with pytest.raises(InputError, match="0 of its 16 different vectors have a relative"):
        measure_families(np.eye(DIM))


def test_a_data_set_is_made_once(index, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DIMENSIONS", 12)
    monkeypatch.setattr(datasets, "QUERIES", 20)
    for kind in (FAMILIES, HARD):
        data = dataset(tmp_path, kind, 1000, index)
        assert data.vectors.shape == (1000, 12) and data.queries.shape == (20, 12)
        product = data.queries @ single(data.vectors[:]).T
        np.testing.assert_allclose(data.least, np.sort(product, axis=1)[:, -10], atol=1e-5)
        assert 0 < data.about["dimension"] < 12 and data.about["contrast"] > 1
        found = np.argsort(-product, axis=1)[:, :10]
        found[:, 0] = np.argmin(product, axis=1)
        assert recall_of_queries(data, found).mean() == pytest.approx(0.9)
        again = dataset(tmp_path, kind, 1000, tmp_path / "nowhere")
        np.testing.assert_array_equal(again.queries, data.queries)


def test_the_table(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "DIMENSIONS", 12)
    monkeypatch.setattr(datasets, "QUERIES", 60)
    monkeypatch.setattr(table, "measured_apart", lambda job, *args: job(*args))
    words = ["table", f"--workdir={tmp_path}", f"--families={index}", "--sizes=1000", "--methods=wsrl,ngt"]
    assert main(words) == 0
    with open(tmp_path / "tables" / "scale.csv", newline="") as file:
        own, other = csv.DictReader(file)
    assert own["recall@10"] == "1.0" and float(own["batch, times brute force"]) > 0 and float(own["filtered ms"]) > 0
    assert other.get("state") == "not installed" or float(other["recall@10"]) > 0.5
    monkeypatch.setattr(table, "measured_apart", None)  # all is measured
    assert main(words) == 0
    for bad in (["--sizes=5"], ["--methods=none"], ["--families=nowhere", "--sizes=2000"]):
        assert main([*words, *bad]) == 1
    assert capsys.readouterr().err.count("error: ") == 3


def test_an_index_as_a_whole(index, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DIMENSIONS", 12)
    monkeypatch.setattr(datasets, "QUERIES", 20)
    monkeypatch.setattr(whole_index, "measured_apart", lambda job, *args: job(*args))
    assert main(["index", f"--workdir={tmp_path}", f"--families={index}", "--sizes=1000"]) == 0
    with open(tmp_path / "tables" / "scale_index.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["models"], row["kept"]) == ("1000", "10") and not list(tmp_path.glob("*.index"))
    assert all(float(row[name]) > 0 for name in ("ms", "filtered ms", "commit MB", "lineage, times base"))
    assert main(["index", f"--workdir={tmp_path}"]) == 1


def test_a_soak(index, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DIMENSIONS", 12)
    monkeypatch.setattr(datasets, "QUERIES", 20)
    monkeypatch.setattr(soak, "EVERY", 0.5)
    assert main(["soak", f"--workdir={tmp_path}", f"--families={index}", "--models=1000", "--minutes=0.03"]) == 0
    table = json.loads((tmp_path / "tables" / "soak.json").read_bytes())
    with open(tmp_path / "tables" / "soak.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["errors"] == "0" and int(row["searches"]) > 0 and int(row["models added"]) >= 100
    assert "loopback" in table["note"]
