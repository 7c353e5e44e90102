"""`Encoder.embed`: the one road from sources to rows."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from networks import draw_network

import wsrl.encoder.checkpoint_encoder as road
from wsrl.checkpoint import CheckpointError
from wsrl.cli.main import main
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder, load_encoder
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import save_encoder
from wsrl.errors import InputError
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.training.fit import init_params

SMALL = ResponseEncoder(probes=8, dim=16, chunk=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An encoder, the paths of two networks, and their functions as the main job makes them."""
    folder = tmp_path_factory.mktemp("trained")
    inputs = np.random.default_rng(0).normal(size=(8, 16, 16, 1)).astype(np.float32)
    params = init_params(SMALL, inputs, 0)
    save_encoder(folder / "encoder", SMALL, params)
    checkpoints = [draw_network("mlp", 0)[0], draw_network("cnn_gap", 0)[0]]
    paths = []
    for i, checkpoint in enumerate(checkpoints):
        paths.append(str(folder / f"{i}.safetensors"))
        metadata = {key: str(value) for key, value in checkpoint.metadata.items() if value is not None}
        safetensors.numpy.save_file(dict(checkpoint.tensors), paths[-1], metadata)
    graphs = [checkpoint_graph(c, 8) for c in checkpoints]
    return load_encoder(folder / "encoder"), paths, Embedder(SMALL)(params, make_buckets(graphs))


def rows(encoder: Encoder, sources, **options) -> list[Embedded]:
    """Of sources that all can be used."""
    found = list(encoder.embed(sources, **options))
    assert all(isinstance(row, Embedded) for row in found)
    return found  # type: ignore[return-value]


def test_functions_are_those_of_the_main_job(trained):
    encoder, paths, expected = trained
    found = rows(encoder, paths)
    assert [row.id for row in found] == paths
    np.testing.assert_allclose(np.stack([row.function for row in found]), expected.embedding, atol=1e-5)
    np.testing.assert_allclose([row.accuracy for row in found], expected.accuracy, atol=1e-5)
    assert [row.architecture for row in found] == ["dense", "map pooled"]
    assert encoder.function_dim == 16 and all(row.weights.shape == (encoder.weights_dim,) for row in found)
    assert all(not row.no_function and len(row.content_digest) == 64 for row in found)


def test_windows_and_neighbors_change_nothing(trained, monkeypatch):
    encoder, paths, _ = trained
    together = rows(encoder, paths)
    for bound in ("WINDOW", "HELD"):
        monkeypatch.setattr(road, bound, 1)
        for row, again in zip(together, rows(encoder, paths), strict=True):
            np.testing.assert_array_equal(row.weights, again.weights)
            np.testing.assert_allclose(row.function, again.function, atol=1e-5)
        monkeypatch.undo()


def test_rows_come_before_later_sources_are_opened(trained, monkeypatch):
    encoder, paths, _ = trained
    monkeypatch.setattr(road, "WINDOW", 1)

    def sources():
        yield paths[0]
        raise AssertionError("the second source was asked for")

    row = next(encoder.embed(sources(), function=False))
    assert isinstance(row, Embedded) and row.no_function == "not asked for"


def test_a_broken_source_is_one_line_and_ends_nothing(trained, tmp_path):
    encoder, paths, _ = trained
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no checkpoint")
    first, error, last = encoder.embed([paths[0], broken, paths[1]])
    assert isinstance(first, Embedded) and isinstance(last, Embedded) and last.function is not None
    assert isinstance(error, CheckpointError) and str(error).startswith(str(broken)) and "\n" not in str(error)


def test_an_unexpected_exception_becomes_an_error_that_names_the_source(trained, monkeypatch):
    encoder, paths, _ = trained

    def fail(*_):
        raise IndexError("norm over\ntwo axes")

    monkeypatch.setattr(road, "sign", fail)
    (error,) = encoder.embed(paths[:1])
    assert isinstance(error, CheckpointError) and isinstance(error.__cause__, IndexError)
    assert str(error).startswith(f"{paths[0]}: cannot be used (IndexError: norm over two axes); leave it out")


def test_networks_that_cannot_be_run_have_weights_and_a_reason(trained, tmp_path, monkeypatch):
    encoder, paths, _ = trained
    other = tmp_path / "other.safetensors"
    cell = {"lstm.weight_ih_l0": np.ones((8, 3), np.float32), "lstm.weight_hh_l0": np.eye(8, 2, dtype=np.float32)}
    safetensors.numpy.save_file(cell, other)
    (row,) = rows(encoder, [other])
    assert row.function is None and row.accuracy is None and row.no_function
    monkeypatch.setattr(road, "RUN_BELOW", 10)
    assert rows(encoder, paths[:1])[0].no_function == "more than 10 parameters"


def test_hints_outrank_what_the_file_says(trained):
    encoder, paths, _ = trained
    plain, hinted = rows(encoder, paths[:1]), rows(encoder, paths[:1], hints={paths[0]: {"activation": "tanh"}})
    assert np.abs(plain[0].function - hinted[0].function).max() > 1e-3
    np.testing.assert_array_equal(plain[0].weights, hinted[0].weights)


def test_on_cpus_jax_is_not_imported(trained):
    _, paths, _ = trained
    code = (
        "import sys; from wsrl.encoder import accelerator; accelerator.find_spec = lambda name: None;"
        "accelerator.entry_points = lambda group: ();"
        "from wsrl.encoder.checkpoint_encoder import load_encoder;"
        f"(row,) = load_encoder().embed([{paths[0]!r}]);"
        "sys.exit(row.function is None or 'jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_hash_stands_for_both_vectors(trained, tmp_path, monkeypatch):
    encoder, _, _ = trained
    assert len(encoder.hash) == 64 and encoder.hash != load_encoder().hash
    before = encoder.hash
    monkeypatch.setattr("wsrl.signature.weights_vector.VERSION", "another")
    assert encoder.hash != before
    with pytest.raises(InputError, match="no readable encoder"):
        load_encoder(tmp_path)


def test_rows_are_immutable(trained):
    encoder, paths, _ = trained
    (row,) = rows(encoder, paths[:1], function=False)
    with pytest.raises(AttributeError):
        row.id = "x"  # type: ignore[misc]
    assert replace(row, id="x").id == "x"


def test_weights_that_are_not_read_are_counted_and_named(trained, tmp_path, capsys):
    encoder, _, _ = trained
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.normal(size=(64, 64)).astype(np.float32),
        "b.weight": rng.integers(0, 99, (48, 48), np.int8),
    }
    path = tmp_path / "codes.safetensors"
    safetensors.numpy.save_file(tensors, path)
    (row,) = rows(encoder, [path], function=False)
    assert row.unread == 2304 and any("b.weight" in line for line in row.warnings)
    assert row.incomplete.startswith(f"{path}: 2,304 numbers")
    assert main(["inspect", str(path)]) == 1
    printed = capsys.readouterr()
    assert "b.weight" in printed.out and "2,304 numbers in 1 tensors" in printed.err
    assert main(["embed", str(path), "--weights-only", "--out", str(tmp_path / "e.npz")]) == 1
    assert main(["index", str(path), "--out", str(tmp_path / "i")]) == 1
    assert capsys.readouterr().err.count("2,304 numbers of its weights are not read") == 2


def test_a_network_that_cannot_be_run_for_an_unknown_reason_hinders_no_other(trained, monkeypatch):
    encoder, paths, expected = trained
    run = encoder._load()
    embed = run._embed

    def fail(networks):
        if len(networks) > 1:
            raise IndexError("too many")
        return embed(networks)

    monkeypatch.setattr(run, "_embed", fail)
    np.testing.assert_allclose([row.function for row in rows(encoder, paths)], expected.embedding, atol=1e-5)
    monkeypatch.setattr(run, "_embed", lambda _: 1 / 0)
    found = rows(encoder, paths)
    assert all(row.function is None and "ZeroDivisionError" in row.no_function for row in found)
