import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsrl.cli.main import main
from wsrl.data import normalize
from wsrl.encoder.dataset_encoder import embed_dataset, init_dataset_params, save_dataset_encoder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import encoder_hash, load_encoder, save_encoder
from wsrl.recommendation import answer, data_query, probes
from wsrl.recommendation.examples import load_examples
from wsrl.recommendation.probes import Query
from wsrl.recommendation.start_score import StartScore, save_start_score
from wsrl.search.functional import Functional
from wsrl.search.index import Index
from wsrl.search.query_expansion import QueryExpansion
from wsrl.training.fit import init_params

GOLDEN = Path(__file__).parent / "golden"
ENCODER = ResponseEncoder(probes=4, input_shape=(8, 8, 1), dim=4, chunk=4)
COMMAND = ["recommend", "--index", "zoo.index", "--data", "task.npz", "--encoder", "encoder"]
VECTORS = np.array([[0.8, 0.6, 0, 0], [0.6, 0.8, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], np.float32)
TASKS = (("cats", 0.5), ("cats", 0.7), ("dogs", 0.9), ("fish\x1b[0m", 0.8))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with an encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    save_encoder(folder, ENCODER, init_params(ENCODER, inputs, 0))
    return folder


@pytest.fixture
def folder(tmp_path, encoder, monkeypatch):
    """A working folder with examples and an encoder; the zoo's embeddings and the query's are given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    rng = np.random.default_rng(0)
    np.savez("task.npz", x=rng.integers(0, 256, (50, 8, 8)).astype(np.uint8), y=np.arange(50) % 5)
    (tmp_path / "encoder").symlink_to(encoder)
    about: list[dict[str, object]] = [{"task": task, "accuracy": accuracy} for task, accuracy in TASKS]
    found = Functional(
        [f"m{i}" for i in range(4)], ["dense"] * 4, VECTORS, about, [0.1] * 4, [f"m{i}.safetensors" for i in range(4)]
    )
    monkeypatch.setattr(Index, "open", lambda *args: object.__new__(Index))
    monkeypatch.setattr(Index, "functional", lambda self: found)
    monkeypatch.setattr(probes, "train_probes", lambda images, seed: None)
    monkeypatch.setattr(probes, "probe_query", lambda *args: Query(np.eye(4, dtype=np.float32)[:1], ["dense"], 0.75))
    reverse = lambda hits, *args: [replace(h, logme=-0.1 - i) for i, h in enumerate(reversed(hits))]  # noqa: E731
    monkeypatch.setattr(answer, "rank_by_logme", reverse)
    sizes = {"m0": [9, 3, 2], "m1": [9, 3, 2], "m2": [7, 3, 2], "m3": [8, 3, 2]}
    monkeypatch.setattr(answer, "network_sizes", lambda index, ids: np.array([sizes[i] for i in ids], np.float32))
    return tmp_path


def test_the_table_is_as_told(folder, capsys):
    assert main([*COMMAND, "--logme", "--format", "human"]) == 0
    out, err = capsys.readouterr()
    assert out == (GOLDEN / "recommend.txt").read_text()
    assert err == ""


def test_examples_ask_by_their_own_vector(folder, encoder, capsys, monkeypatch):
    monkeypatch.setattr(probes, "train_probes", None)  # nothing is trained
    ask = [*COMMAND, "--query", "examples", "--json"]
    assert main(ask) == 1
    assert "data-set encoder" in capsys.readouterr().err
    _, params = load_encoder(encoder)
    module, initial = init_dataset_params(ENCODER, params["inputs"], 0)
    save_dataset_encoder(encoder, module, initial, ENCODER, params)
    assert main(ask) == 0
    about, *models = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert about["probe_accuracy"] is None
    images = load_examples("task.npz", None, 8, 5000, 0)
    vector = embed_dataset(module, initial, ENCODER, params, normalize(images.x)[..., None], images.y)
    expected = QueryExpansion.build(VECTORS, ["dense"] * 4).similarities(vector[None], ["data"])[0]
    assert [m["similarity"] for m in models] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_good_starts_are_told_by_a_score(folder, encoder, capsys, monkeypatch):
    monkeypatch.setattr(probes, "train_probes", None)  # nothing is trained
    monkeypatch.setattr(data_query, "data_query", lambda *args: Query(np.eye(4, dtype=np.float32)[:1], ["data"], None))
    assert main([*COMMAND, "--start"]) == 1
    assert capsys.readouterr().err.startswith("error: encoder/start_score.safetensors: no readable start score")
    weights = np.array([0.0, 0.1, 0.0, 0.0, 0.01], np.float32)  # larger models are better, and of them the nearer one
    score = StartScore(np.zeros(4, np.float32), np.eye(4, 1, dtype=np.float32), weights)
    save_start_score(encoder, score, encoder_hash(*load_encoder(encoder)))
    assert main([*COMMAND, "--start", "--json"]) == 0
    _, *models = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [model["id"] for model in models] == ["m0", "m1", "m3", "m2"]
    assert sum(model["start"] for model in models) == pytest.approx(0, abs=1e-5)
    assert main([*COMMAND, "--start", "--logme", "--format", "human"]) == 0
    assert "rank  similarity   start   LogME  task" in capsys.readouterr().out


def test_json_lines_hold_the_reasons_and_the_models(folder, capsys):
    assert main([*COMMAND, "--json"]) == 0
    about, *models = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert about["classes"] == 5 and about["images"] == 50 and about["held_out"] == 10
    assert [task["task"] for task in about["nearest_tasks"]] == ["dogs", "cats", "fish\x1b[0m"]
    assert about["probe_accuracy"] == 0.75
    assert [model["id"] for model in models] == ["m2", "m0", "m1", "m3"]
    weights = np.maximum([model["similarity"] for model in models], 0)
    expected = np.average([model["accuracy"] for model in models], weights=weights)
    assert about["expected_accuracy"] == pytest.approx(expected, abs=1e-5)
    assert models[0] == {
        **{"wsrl": 1, "rank": 1, "id": "m2", "architecture": "dense", "accuracy": 0.9, "path": "m2.safetensors"},
        "metadata": {"task": "dogs", "accuracy": 0.9},
        "similarity": pytest.approx(1, abs=0.1),
    }
    assert main([*COMMAND, "--json", "-k", "2"]) == 0
    assert [json.loads(line).get("id") for line in capsys.readouterr().out.splitlines()] == [None, "m2", "m0"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-k", "0"], "error: -k: 0 is too small; give 1 or more"),
        (["--seed", "-1"], "error: --seed: -1 is too small; give 0 or more"),
        (
            ["--data", "encoder/encoder.safetensors"],
            "error: encoder/encoder.safetensors: is no .npz file; save images x",
        ),
        (["--data", "other.npz"], "error: other.npz: no such file; check the path"),
        (["--encoder", "zoo"], "error: zoo: holds no readable encoder"),
        (["--architecture", "--start"], "error: --architecture: ranks no models"),
    ],
)
def test_bad_input_is_told_in_a_line(folder, capsys, arguments, line):
    assert main([*COMMAND, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1


def test_a_folder_without_an_index_is_told(folder, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(COMMAND) == 1
    assert capsys.readouterr().err.startswith("error: zoo.index: is no index; ")


def test_architectures_to_train_are_ranked(folder, capsys):
    assert main([*COMMAND, "--architecture", "--json"]) == 0
    about, *ranked = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert about["nearest_tasks"][0]["task"] == "dogs"
    assert [(own["architecture"], own["models"], own["effect"]) for own in ranked] == [("dense", 4, 0.0)]
    assert main([*COMMAND, "--architecture", "--format", "human"]) == 0
    assert "rank  expected accuracy  effect  architecture" in capsys.readouterr().out
