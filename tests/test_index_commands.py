import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from fake_encoder import FUNCTION, WEIGHTS, FakeEncoder, write_model

from wsrl.cli.main import main
from wsrl.encoder import checkpoint_encoder
from wsrl.search.index import Index

GOLDEN = Path(__file__).parent / "golden"
INDEX = ["--index", "zoo.index"]


@pytest.fixture
def indexed(tmp_path, monkeypatch, capsys):
    """A working folder with three checkpoints and an index of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint_encoder, "load_encoder", lambda directory=None: FakeEncoder())
    for seed, name in enumerate("abc"):
        write_model(Path(f"models/{name}.safetensors"), seed, function=seed < 2)
    assert main(["index", "models", "--out", "zoo.index"]) == 0
    capsys.readouterr()


def told(capsys) -> str:
    """All that was printed, without what differs between runs and versions of SQLite."""
    out, err = capsys.readouterr()
    return re.sub(r"\b[\d.]+ (k?B)\b", r"SIZE", re.sub(r"-\d{6}", "-NUMBER", out + err))


def test_what_the_commands_print(indexed, capsys):
    lines = ""

    def do(*words: str, status: int = 0) -> None:
        nonlocal lines
        assert main(list(words)) == status
        lines += f"$ wsrl {' '.join(words)}\n{told(capsys)}"

    do("info", *INDEX)
    do("verify", *INDEX)
    do("annotate", "models/a.safetensors", "license=mit", "base=owner/name", *INDEX)
    do("annotate", "models/a.safetensors", "base=", *INDEX)
    do("remove", "models/b.safetensors", *INDEX)
    write_model(Path("models/a.safetensors"), 77)
    write_model(Path("models/new.safetensors"), 8)
    do("update", *INDEX)
    do("add", "models/a.safetensors", *INDEX)
    do("export", *INDEX, "--out", "zoo.npz")
    next(Path("zoo.index").glob("function-*")).unlink()
    do("verify", *INDEX, status=1)
    do("verify", *INDEX, "--format", "human", status=1)
    do("verify", "--repair", *INDEX)
    do("verify", *INDEX)
    do("verify", "--index", "models", status=2)
    assert lines == (GOLDEN / "index_commands.txt").read_text()


def test_one_object_tells_programs_the_same(indexed, capsys):
    for words in (["info"], ["update"], ["annotate", "models/a.safetensors"], ["export", "--out", "zoo.npz"]):
        assert main([*words, *INDEX, "--json"]) == 0
        line = json.loads(capsys.readouterr().out)
        assert main([*words, *INDEX, "--format", "json"]) == 0
        whole = json.loads(capsys.readouterr().out)
        assert whole == {"wsrl": 1, "command": words[0], "results": [{k: v for k, v in line.items() if k != "wsrl"}]}
    next(Path("zoo.index").glob("neighbors-*")).unlink()
    assert main(["verify", *INDEX, "--json"]) == 1
    (damage,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (damage["part"], damage["models"], damage["reason"]) == ("neighbors", 2, "missing")


def test_an_update_from_another_folder_keeps_the_ids(indexed, tmp_path, monkeypatch, capsys):
    before = Index.open("zoo.index").ids
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["update", "--index", str(tmp_path / "zoo.index"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["unchanged"], about["embedded"], about["removed"]) == (3, 0, 0)
    assert Index.open(tmp_path / "zoo.index").ids == before
    (tmp_path / "models").rename(tmp_path / "away")  # a disk that is not mounted, say
    assert main(["update", "--index", str(tmp_path / "zoo.index")]) == 1
    assert "models: is not there; put it back" in capsys.readouterr().err
    assert Index.open(tmp_path / "zoo.index").ids == before


def test_the_exported_file(indexed, capsys):
    Index.open("zoo.index").annotate("models/b.safetensors", {"license": "mit"})
    for name in ("zoo.npz", "zoo.parquet"):
        assert main(["export", *INDEX, "--out", name]) == 0
    arrays, index = np.load("zoo.npz"), Index.open("zoo.index")
    table = pyarrow.parquet.read_table("zoo.parquet")
    assert arrays["ids"].tolist() == table["id"].to_pylist() == index.ids
    assert arrays["embeddings"].shape == (3, WEIGHTS) and arrays["function"].shape == (3, FUNCTION)
    for place, name in enumerate(index.ids):
        row = index.get(name)
        assert arrays["embeddings"][place].tolist() == table["weights"][place].as_py() == row.weights.tolist()
        function = table["function"][place].as_py()
        assert function is None if row.function is None else function == row.function.tolist()
        assert np.isnan(arrays["function"][place]).all() == (function is None)
    assert table["accuracy"][2].as_py() is None
    assert [json.loads(text) for text in table["metadata"].to_pylist()] == [{}, {"license": "mit"}, {}]
    assert table.schema.metadata[b"encoder"].decode() == str(arrays["encoder"]) == FakeEncoder.hash
    assert main(["export", *INDEX, "--out", "zoo.csv"]) == 1
    assert "zoo.csv: ends neither in .npz nor in .parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["annotate", "nobody", "a=b", *INDEX], "error: nobody: is no model of the index zoo.index"),
        (["annotate", "models/a.safetensors", "ab", *INDEX], "error: ab: is no KEY=VALUE; write a note as license=mit"),
        (["annotate", "models/a.safetensors", "a b=1", *INDEX], "error: a b: is no key of a note; use letters"),
        (["annotate", "models/a.safetensors", "id=x", *INDEX], "error: id: is a key that every index has"),
        (["annotate", "models/a.safetensors", "a=\udcff", *INDEX], "error: a: the note is no UTF-8 text"),
        (["remove", "models/a.safetensors", "nobody", *INDEX], "error: nobody: is no model of the index"),
        (["info", "--index", "models"], "error: models: is no index; make one with `wsrl index`"),
        (["update", "--index", "none"], "error: none: is no index"),
        (["export", "--index", "none", "--out", "a.npz"], "error: none: is no index"),
        (["duplicates", "--index", "milvus://localhost/x"], "error: milvus://localhost/x: is a vector store, and this"),
        (
            ["lineage", "--index", "qdrant://localhost:1/x"],
            "error: qdrant://localhost:1/x: is a vector store, and this",
        ),
        (["serve", "--index", "milvus://localhost/x"], "error: milvus://localhost/x: is a vector store, and this"),
    ],
)
def test_bad_input_is_told_in_a_line(indexed, capsys, words, line):
    before = Index.open("zoo.index").ids
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1
    assert Index.open("zoo.index").ids == before
