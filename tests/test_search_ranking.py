import os
import shutil
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from fake_encoder import WEIGHTS, FakeEncoder, names, unit, write_model
from hypothesis import given, settings

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.search import query_expansion, searcher
from wsrl.search.index import Index
from wsrl.search.query_expansion import QueryExpansion


def random_rows(count: int, seed: int) -> list[Embedded]:
    rng = np.random.default_rng(seed)
    return [
        Embedded(f"m{i}", "", f"{i}", "", 1, unit(rng.normal(size=WEIGHTS)), None, "none", None, (), {})
        for i in range(count)
    ]


class GivenRows(FakeEncoder):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def _row(self, source, function):
        return self.rows[int(Path(source).stem)]


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 10**6), st.booleans(), st.data())
def test_search_equals_brute_force(tmp_path_factory, count, k, seed, exact, data):
    folder = tmp_path_factory.mktemp("search")
    rows = random_rows(count, seed)
    for i in range(count):
        (folder / f"{i}.npz").write_bytes(b"x")
    index = Index.build(GivenRows(rows), folder, folder / "index")
    query = random_rows(1, seed + 1)[0]
    query = Embedded(**{**query.__dict__, "weights_digest": "no other"})
    excluded = data.draw(st.sets(st.integers(0, count - 1)))
    hits = index.search(query, k, "weights", exclude=[index.ids[i] for i in excluded], exact=exact)
    scores = {index.ids[i]: float(row.weights @ query.weights) for i, row in enumerate(rows) if i not in excluded}
    expected = sorted(scores.values(), reverse=True)[:k]
    assert [hit.score for hit in hits] == pytest.approx(np.clip(expected, 0, 1), abs=1e-5)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert len({hit.id for hit in hits}) == len(hits) == min(k, count - len(excluded))
    assert all(max(scores[hit.id], 0) == pytest.approx(hit.score, abs=1e-5) for hit in hits)
    mask = np.isin(np.arange(count), list(excluded))
    assert index.search(query, k, "weights", exclude=mask, exact=exact) == hits


@pytest.mark.parametrize("by", ["weights", "function"])
def test_approximate_search_finds_what_exact_search_does(tmp_path, monkeypatch, by):
    for seed in range(60):
        write_model(tmp_path / "models" / f"{seed}.safetensors", seed, architecture=f"kind {seed % 2}")
    index = Index.build(FakeEncoder(), tmp_path / "models", tmp_path / "index")
    exact = [index.search(name, 7, by, exact=True) for name in index.ids]
    monkeypatch.setattr(searcher, "BRUTE_FORCE_BELOW", 0)  # by candidates, which are all there are
    found = [index.search(name, 7, by) for name in index.ids]
    for one, other in zip(exact, found, strict=True):
        assert [hit.id for hit in one] == [hit.id for hit in other]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-5)


@pytest.mark.parametrize("count", [2, 3, 5, 9, 30, 60])
def test_unrelated_models_are_not_opposite(tmp_path, count):
    for seed in range(count):
        write_model(tmp_path / "models" / f"{seed}.safetensors", seed, architecture=f"kind {seed % 2}")
    index = Index.build(FakeEncoder(), tmp_path / "models", tmp_path / "index")
    rows = [index.get(name) for name in index.ids]
    functions = np.stack([row.function for row in rows])
    found = QueryExpansion.build(functions, [row.architecture for row in rows])
    similarity = found.similarities(functions, [row.architecture for row in rows])
    if count < 10:
        np.testing.assert_allclose(similarity, functions @ functions.T, atol=1e-6)
    else:  # -1 / (n - 1) of a kind would be -.07 among 30
        assert similarity[~np.eye(count, dtype=bool)].mean() > -0.05
    hits = [hit for name in index.ids for hit in index.search(name, count, "function")]
    assert all(0 <= hit.score <= 1 for hit in hits) and {hit.by for hit in hits} == {"function"}


def test_function_search_leaves_excluded_models_out_of_neighborhoods(tmp_path):
    for seed in range(40):
        write_model(tmp_path / "models" / f"{seed}.safetensors", seed)
    index = Index.build(FakeEncoder(), tmp_path / "models", tmp_path / "index")
    left_out = index.ids[3:9]
    hits = index.search(index.ids[0], 99, "function", exclude=left_out)
    assert not {hit.id for hit in hits} & set(left_out) and len(hits) == 34
    rows = [index.get(name) for name in index.ids]
    found = QueryExpansion.build(np.stack([row.function for row in rows]), [row.architecture for row in rows])
    mask = np.isin(index.ids, left_out)[None]
    expected = found.similarities(rows[0].function[None], [rows[0].architecture], mask)[0]
    others = {hit.id: hit.score for hit in hits if not hit.same_weights}
    wanted = {name: max(score, 0) for name, score in zip(index.ids, expected.tolist(), strict=True) if name in others}
    assert others == pytest.approx(wanted, abs=1e-5)


def test_which_vector_a_search_rests_on(models, built):
    first, second, third = names(models)
    assert {hit.by for hit in built.search(first)} == {"function"}
    assert {hit.by for hit in built.search(third)} == {"weights"}
    assert len(built.search(first)) == 2 and len(built.search(first, by="weights")) == 3
    with pytest.raises(InputError, match="has no function vector"):
        built.search(third, by="function")
    built.remove([first, second])
    assert {hit.by for hit in built.search(first)} == {"weights"}
    with pytest.raises(InputError, match="holds no model with a function vector"):
        built.search(first, by="function")


def test_queries_in_the_index_are_not_embedded(models, built, tmp_path):
    encoder = FakeEncoder()
    index = Index.open(tmp_path / "index", encoder)
    shutil.copy(names(models)[0], tmp_path / "copy.safetensors")
    for query in (names(models)[0], str(tmp_path / "copy.safetensors")):
        hit = index.search(query)[0]
        assert (hit.id, hit.score, hit.same_weights, hit.rank) == (names(models)[0], 1.0, True, 1)
    os.remove(names(models)[1])
    assert index.search(names(models)[1])[0].id == names(models)[1]  # an id
    assert encoder.embedded == []
    write_model(tmp_path / "other.safetensors", 123)
    assert not index.search(tmp_path / "other.safetensors")[0].same_weights
    assert encoder.embedded == [str(tmp_path / "other.safetensors")]
    with pytest.raises(InputError, match="neither a checkpoint nor a model of the index"):
        index.search("nothing")


def test_wrong_questions_are_refused(models, built):
    name = names(models)[0]
    with pytest.raises(InputError, match="at least one"):
        built.search(name, 0)
    with pytest.raises(InputError, match="auto, weights, function"):
        built.search(name, by="shape")
    with pytest.raises(InputError, match="mask"):
        built.search(name, exclude=np.zeros(5, bool))
    short = Embedded(**{**built.get(name).__dict__, "function": None, "weights": np.ones(4, np.float32) / 2})
    with pytest.raises(InputError, match="4 dimensions"):
        built.search(short)


def test_neighbors_are_found_when_it_is_written(tmp_path, monkeypatch):
    for seed in range(40):
        write_model(tmp_path / "models" / f"{seed}.safetensors", seed)
    built = Index.build(FakeEncoder(), tmp_path / "models", tmp_path / "index")
    built.remove(built.ids[:2])
    monkeypatch.setattr(query_expansion, "_nearest_others", None)
    built.annotate(built.ids[0], {"a": "b"})
    index = Index.open(tmp_path / "index")
    rows = [index.get(name) for name in index.ids]
    monkeypatch.undo()
    found = QueryExpansion.build(np.stack([row.function for row in rows]), [row.architecture for row in rows])
    assert found.neighbors == 3
    accuracy = dict(zip(index.ids, found.smoothed(np.array([row.accuracy for row in rows])), strict=True))
    monkeypatch.setattr(query_expansion, "_nearest_others", None)
    hits = index.search(index.ids[3], 38, "function")
    expected = found.similarities(rows[3].function[None], [rows[3].architecture])[0]
    scores = {hit.id: hit.score for hit in hits if not hit.same_weights}
    others = {name: max(score, 0) for name, score in zip(index.ids, expected.tolist(), strict=True) if name in scores}
    assert scores == pytest.approx(others, abs=1e-6) and len(scores) == 37
    assert {hit.id: hit.accuracy for hit in hits} == pytest.approx(accuracy, abs=1e-6)


def test_what_is_close_by_weights_is_not_missed_where_the_function_is_assumed(models, built):
    row = built.get(names(models)[0])
    other = built.get(names(models)[1])
    moved = row.weights + np.float32(0.01) * other.weights
    asked = replace(
        row, id="asked", weights_digest="other", weights=moved / np.linalg.norm(moved), function=other.function
    )
    first, second = built.search(asked, k=2)
    assert (first.id, first.by, first.same_weights) == (row.id, "weights", False) and first.score > 0.99
    assert (second.id, second.by) == (other.id, "function")
    told = built.search(replace(asked, assumed=()), k=1)[0]
    assert (told.id, told.by) == (other.id, "function")
    assert built.search(asked, k=1, by="function")[0].by == "function"
    assert [hit.id for hit in built.search(asked, k=1, exclude=[row.id])] == [other.id]


def test_functions_of_two_kinds_are_not_ranked_together(models, built):
    row = built.get(names(models)[0])
    with pytest.raises(InputError, match="no model with a function vector of the query's kind"):
        built.search(replace(row, id="asked", weights_digest="", architecture="operators: map"), by="function")
    found = built.search(replace(row, id="asked", weights_digest="", architecture="operators: map"))
    assert {hit.by for hit in found} == {"weights"}
