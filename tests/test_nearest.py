import json

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings

from wsrl.errors import InputError
from wsrl.search.nearest import FILE, FORMAT, NearestNeighbors


def clustered(count: int, dim: int = 32, seed: int = 0, noise: float = 0.15) -> np.ndarray:
    """Unit vectors around one random centre for every fifty of them, float32."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 50), dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = centres[rng.integers(0, len(centres), count)] + noise * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"model-{i}" for i in range(count)]


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 1000))
def test_exact_search_agrees_with_numpy(count, k, seed):
    vectors, queries = clustered(count, 8, seed), clustered(5, 8, seed + 1)
    rows, similarity = NearestNeighbors.build(vectors, names(count)).search(queries, k)
    assert rows.shape == similarity.shape == (5, min(k, count))
    assert rows.dtype == np.int64 and similarity.dtype == np.float32
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    expected = np.sort(queries @ vectors.T, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(similarity, expected, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(queries @ vectors.T, rows, 1), similarity, atol=1e-5)


def test_an_index_of_few_vectors_compares_all():
    index = NearestNeighbors.build(clustered(500), names(500))
    assert index.backend == "exact" and index.compared(10) == 500


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_a_vector_that_is_not_finite(bad):
    vectors = clustered(20)
    vectors[7, 3] = bad
    with pytest.raises(InputError, match="model-7: its vector is not finite"):
        NearestNeighbors.build(vectors, names(20))
    with pytest.raises(InputError, match="row 7: its vector is not finite"):
        NearestNeighbors.build(clustered(20), names(20)).search(vectors, 3)


def test_refuses_zero_vectors_duplicates_and_wrong_shapes():
    vectors = clustered(5)
    with pytest.raises(InputError, match="'model-1' appears more than once"):
        NearestNeighbors.build(vectors, ["model-1", "a", "b", "model-1", "c"])
    with pytest.raises(InputError, match="4 ids"):
        NearestNeighbors.build(vectors, names(4))
    with pytest.raises(InputError, match="0 ids"):
        NearestNeighbors.build(np.zeros((0, 4)), [])
    index = NearestNeighbors.build(vectors, names(5))
    with pytest.raises(InputError, match="dimensions"):
        index.search(vectors[:, :7], 2)
    with pytest.raises(InputError, match="k is 0"):
        index.search(vectors, 0)
    vectors[2] = 0
    with pytest.raises(InputError, match="model-2: its vector is zero"):
        NearestNeighbors.build(vectors, names(5))


def test_scales_to_unit_length_without_overflow():
    vectors = clustered(30)
    scales = np.logspace(-300, 300, 30)[:, None]
    index = NearestNeighbors.build(vectors * scales, names(30))
    np.testing.assert_allclose(index.vectors, vectors, atol=1e-6)
    assert index.search(np.zeros((0, 32)), 3)[0].shape == (0, 3)


def test_round_trip(tmp_path):
    vectors = clustered(200)
    index = NearestNeighbors.build(vectors, [f'é"{i}/\n' for i in range(200)], encoder_hash="abc", exact=True)
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # over the old one
    (tmp_path / "index").rename(tmp_path / "moved")
    loaded = NearestNeighbors.load(tmp_path / "moved", encoder_hash="abc")
    assert (loaded.ids, loaded.encoder_hash, loaded.exact) == (index.ids, "abc", True)
    for ours, theirs in zip(index.search(vectors, 5), loaded.search(vectors, 5), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert [file.name for file in (tmp_path / "moved").iterdir()] == [FILE]


def test_load_refuses_another_encoder(tmp_path):
    NearestNeighbors.build(clustered(3), names(3), encoder_hash="abc").save(tmp_path)
    with pytest.raises(InputError, match="filled by encoder 'abc', not 'xyz'"):
        NearestNeighbors.load(tmp_path, encoder_hash="xyz")
    assert NearestNeighbors.load(tmp_path).encoder_hash == "abc"


def test_load_refuses_damaged_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        NearestNeighbors.load(tmp_path)
    NearestNeighbors.build(clustered(3), names(3)).save(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for damaged in (b"", whole[:50], whole[:-5], b"\x80\x04" + whole):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            NearestNeighbors.load(tmp_path)
    metadata = {"format": FORMAT, "encoder_hash": '""', "exact": "false"}
    for ids, reason in (
        ("[", "damaged"),
        (json.dumps(["a"]), "1 ids"),
        ('{"a": 1}', "no list"),
        ("[1, 2, 3]", "no list"),
    ):
        content = safetensors.numpy.save({"vectors": clustered(3)}, metadata | {"ids": ids})
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(InputError, match=reason):
            NearestNeighbors.load(tmp_path)
    (tmp_path / FILE).write_bytes(safetensors.numpy.save({"vectors": clustered(3)}))
    with pytest.raises(InputError, match="format None"):
        NearestNeighbors.load(tmp_path)
