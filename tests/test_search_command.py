import json
import re
import shutil
import sys
from io import StringIO
from pathlib import Path

import pytest
from fake_encoder import FakeEncoder, write_model
from small_zoo import write_zoo

from wsrl.cli.main import main
from wsrl.encoder import checkpoint_encoder
from wsrl.search import query_rows

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def encoder(monkeypatch):
    """The encoder that commands load; its folders are those that hold a file `encoder.json`."""
    fake = FakeEncoder()
    monkeypatch.setattr(checkpoint_encoder, "load_encoder", lambda directory=None: fake)
    monkeypatch.setattr(query_rows, "load_encoder", lambda directory=None: fake)
    return fake


@pytest.fixture
def folder(tmp_path, monkeypatch, encoder):
    """A working folder with four checkpoints, one of them broken, and an index of the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    for seed, name in enumerate(("a.safetensors", "b.safetensors", "deep/c\x1b[0m.safetensors")):
        write_model(Path("models") / name, seed, function=seed < 2)
    Path("models/broken.safetensors").write_bytes(b"no checkpoint")
    return tmp_path


@pytest.fixture
def indexed(folder, capsys):
    assert main(["index", "models", "--out", "zoo.index"]) == 0
    capsys.readouterr()
    return folder


def hits(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_index_prints_what_it_did(folder, capsys, encoder):
    assert main(["index", "models", "--out", "zoo.index"]) == 0
    out, err = capsys.readouterr()
    Path("models/b.safetensors").unlink()
    assert main(["index", "models", "--out", "zoo.index"]) == 0
    again, same_err = capsys.readouterr()
    assert err == same_err and len(encoder.embedded) == 5  # the broken one is tried again
    told = re.sub(r"[\d.]+ kB", "SIZE", out + again + err)  # differs between versions of SQLite
    assert told == (GOLDEN / "index.txt").read_text()


def test_index_as_json_and_from_a_list(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StringIO("models/a.safetensors\nmodels/b.safetensors\n"))
    assert main(["index", "-", "--out", "zoo.index", "--json"]) == 0
    (about,) = hits(capsys)
    assert (about["models"], about["functions"], about["embedded"], about["left_out"]) == (2, 2, 2, 0)
    deep = "models/deep/c\x1b[0m.safetensors"
    assert main(["add", deep, "--index", "zoo.index", "--json"]) == 0
    (about,) = hits(capsys)
    assert (about["models"], about["embedded"], about["unchanged"]) == (3, 1, 0)
    assert main(["index", deep, "--out", "zoo.index", "--json"]) == 0
    (about,) = hits(capsys)
    assert (about["models"], about["unchanged"], about["removed"]) == (1, 1, 2)


def test_no_query_on_stdin_is_told(indexed, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StringIO(""))
    assert main(["search", "-", "--index", "zoo.index"]) == 1
    assert capsys.readouterr().err == "error: query: none was given; name a checkpoint, or a model of the index\n"


def test_closed_streams_are_no_error(indexed, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["search", "models/a.safetensors", "--index", "zoo.index"]) == 0


def test_damage_is_told_once(indexed, capsys):
    Path("zoo.index/weights-000001.npy").write_bytes(b"x")
    assert main(["search", "models/a.safetensors", "--index", "zoo.index", "--by", "weights"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: zoo.index/weights-000001.npy: damaged (") and err.count("damaged") == 1


def test_the_table(indexed, capsys):
    write_model(Path("query.safetensors"), 9)
    human = ["--index", "zoo.index", "--format", "human"]
    assert main(["search", "query.safetensors", "models/a.safetensors", "--each", *human]) == 0
    first = capsys.readouterr().out
    assert main(["search", "query.safetensors", "--by", "weights", "-k", "2", *human]) == 0
    assert first + capsys.readouterr().out == (GOLDEN / "search.txt").read_text()


def test_json_lines_have_all_that_is_known(indexed, capsys, encoder):
    asked = ["models/a.safetensors", "models/b.safetensors"]
    assert main(["search", *asked, "--each", "--index", "zoo.index", "--by", "weights", "--json"]) == 0
    found = hits(capsys)
    assert [(hit["query"], hit["rank"]) for hit in found] == [(name, rank) for name in asked for rank in (1, 2, 3)]
    assert len(encoder.embedded) == 4  # queries that are in the index are not embedded
    accuracy = found[0].pop("predicted_accuracy")
    assert 0 < accuracy < 1
    assert found[0].pop("wsrl") == 1
    assert found[0] == {
        **{"query": "models/a.safetensors", "rank": 1, "id": "models/a.safetensors", "score": 1.0, "by": "weights"},
        **{"same_weights": True, "architecture": "relu mlp", "parameters": 28, "path": "models/a.safetensors"},
        "metadata": {},
    }
    assert [hit["score"] for hit in found[:3]] == sorted((hit["score"] for hit in found[:3]), reverse=True)


def test_a_zoo_is_searched_by_id_and_by_file(folder, capsys):
    records = write_zoo(folder / "zoo")
    assert main(["index", "zoo", "--out", "zoo.index"]) == 0
    capsys.readouterr()
    shutil.copy(f"zoo/{records[5].path}", "copy.safetensors")
    for query in (records[5].id, f"zoo/{records[5].path}", "copy.safetensors"):
        assert main(["search", query, "--index", "zoo.index", "-k", "1", "--json"]) == 0
        (hit,) = hits(capsys)
        assert hit["id"] == records[5].id and hit["metadata"]["task"] == records[5].task and hit["same_weights"]
    assert main(["search", "model-5", "--index", "zoo.index", "--format", "human"]) == 0
    heading, first = capsys.readouterr().out.splitlines()[2:4]
    assert heading.split() == ["rank", "score", "weights", "task", "parameters", "accuracy", "model"]
    assert first.split() == ["1", "1.000", "same", "task-2", "455", "0.50", "model-5"]


def test_files_that_a_folder_does_not_stand_for_are_told(indexed, capsys):
    line = "models stands for models/a.safetensors alone; not read: b.safetensors, broken.safetensors\n"
    for command in (["search", "models", "--index", "zoo.index", "-k", "1"], ["compare", "models", "models/deep"]):
        assert main(command) == 0
        assert line in capsys.readouterr().err
    Path("models/config.json").write_text("{}")  # one model, in several files
    assert main(["search", "models", "--index", "zoo.index", "-k", "1"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["search", "nothing", "--index", "zoo.index"], "error: nothing: is neither a checkpoint nor a model"),
        (["search", "models/broken.safetensors", "--index", "zoo.index"], "error: models/broken.safetensors: "),
        (["search", "models/a.safetensors", "--index", "models"], "error: models: is no index; make one with"),
        (["search", "models/a.safetensors", "--index", "none"], "error: none: is no index; make one with"),
        (["search", "models/a.safetensors", "-k", "0", "--index", "zoo.index"], "error: -k: 0 is too small; give 1"),
        (["search", "models/deep", "--by", "function", "--index", "zoo.index"], "error: models/deep"),
        (["index", "models", "--out", "models"], "error: models: is a folder with other things in it; name a new"),
        (["index", "none.pt", "--out", "new"], "error: new: no checkpoint could be used (none.pt: cannot be read"),
        (["add", "models", "--index", "new"], "error: new: is no index; make one with"),
        (["index", "", "--out", "new"], "error: '': names nothing; name a checkpoint"),
        (["search", "", "--index", "zoo.index"], "error: '': names nothing; name a checkpoint"),
    ],
)
def test_bad_input_is_told_in_a_line(indexed, capsys, arguments, line):
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith(line)
    assert err.count("\n") == 1 + err.count("left out: ")
