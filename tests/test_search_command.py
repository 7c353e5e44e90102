import json
from pathlib import Path

import numpy as np
import pytest
from small_zoo import SIZE, write_zoo

from wsrl.cli.main import main
from wsrl.encoder.encoder import Encoder
from wsrl.encoder.export import save_encoder
from wsrl.encoder.fit import init_params

ENCODER = Encoder(probes=4, input_shape=(SIZE, SIZE, 1), dim=4, rank=2, gradient_probes=2, chunk=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A zoo of eight models and an encoder."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "zoo").mkdir()
    records = write_zoo(folder / "zoo")
    inputs = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 1)).astype(np.float32)
    save_encoder(folder / "encoder", ENCODER, init_params(ENCODER, inputs, 0))
    return folder, records


@pytest.fixture
def command(folder, monkeypatch):
    monkeypatch.chdir(folder[0])
    return ["search", "--zoo", "zoo", "--encoder", "encoder"]


@pytest.mark.parametrize("options", [[], ["--cosine"]])
def test_a_model_of_the_zoo_is_found_first(command, folder, capsys, options):
    asked = [f"zoo/{folder[1][place].path}" for place in (5, 2)]
    assert main([*command, *asked, *options, "--json", "--top", "3"]) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(hit["query"], hit["rank"]) for hit in hits] == [(name, rank) for name in asked for rank in (1, 2, 3)]
    assert [hits[0]["id"], hits[3]["id"]] == [folder[1][5].id, folder[1][2].id]
    assert hits[0]["cosine"] == pytest.approx(1, abs=1e-5) and -1 <= hits[2]["similarity"] <= 1
    ranked_by = "cosine" if options else "similarity"
    assert [hit[ranked_by] for hit in hits[:3]] == sorted((hit[ranked_by] for hit in hits[:3]), reverse=True)


def test_the_table(command, folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    path = f"zoo/{folder[1][0].path}"
    assert main([*command, path]) == 0
    first, empty, heading, *rows = capsys.readouterr().out.splitlines()
    assert first == f"{path}: nearest of 8 models" and empty == ""
    assert heading.split() == ["rank", "similarity", "cosine", "task", "architecture", "accuracy", "model"]
    assert len(rows) == 8 and rows[0].split()[-1] == folder[1][0].id and rows[0].split()[2] == "1.000"


@pytest.mark.parametrize("trained", [False, True])
def test_embeddings_are_searched_as_they_were_made(command, folder, capsys, trained):
    paths = [f"zoo/{record.path}" for record in folder[1]]
    options = ["--encoder", "encoder"] if trained else []
    assert main(["embed", *paths, *options, "--out", "own.npz"]) == 0
    capsys.readouterr()
    asked = ["search", paths[4], "--zoo", "own.npz", "--json", "--cosine"]
    assert main([*asked, *options]) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(hits) == 8 and hits[0]["id"] == paths[4] and hits[0]["cosine"] == pytest.approx(1, abs=1e-5)
    predicted = ["predicted_accuracy"] if trained else []
    assert set(hits[0]) == {"query", "rank", "id", "similarity", "cosine", *predicted}
    assert all(0 <= hit[name] <= 1 for hit in hits for name in predicted)
    if trained:
        assert main(asked) == 1  # by the encoder of the package
        assert capsys.readouterr().err.startswith("error: own.npz: was embedded by another encoder; ")
    assert main(["search", paths[4], "--zoo", "own.npz", *options]) == 0
    words = "rank similarity cosine predicted accuracy model" if trained else "rank similarity cosine model"
    assert capsys.readouterr().out.splitlines()[2].split() == words.split()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", "other arrays", "no vectors", "one accuracy", "no number"])
def test_a_file_without_embeddings_is_told(command, folder, capsys, content):
    if isinstance(content, bytes):
        Path("bad.npz").write_bytes(content)
    elif content == "other arrays":
        np.savez("bad.npz", x=np.zeros(3))
    else:
        more = {} if content == "no vectors" else {"kinds": np.array(["dense"] * 2), "accuracy": np.zeros(1)}
        more |= {"accuracy": np.array([0.5, np.nan])} if content == "no number" else {}
        vectors = np.full((2, 3), float(bool(more)))
        np.savez("bad.npz", ids=np.array(["a", "b"]), embeddings=vectors, encoder=np.array("e"), **more)
    assert main(["search", f"zoo/{folder[1][0].path}", "--zoo", "bad.npz"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: bad.npz: ") and err.count("\n") == 1
    assert ("`accuracy`" in err) == (content in ("one accuracy", "no number"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nothing.safetensors"], "error: nothing.safetensors: "),
        (["zoo/models.jsonl"], "error: zoo/models.jsonl: "),
        (["{model}", "--zoo", "encoder"], "error: encoder/models.jsonl: "),
        (["{model}", "--encoder", "zoo"], "error: zoo: holds no readable encoder"),
        (["{model}", "--top", "0"], "error: --top: 0 is too small; give 1 or more"),
        (["{model}", "{model}"], "error: "),
    ],
)
def test_bad_input_is_told_in_a_line(command, folder, capsys, arguments, line):
    given = [argument.format(model=f"zoo/{folder[1][0].path}") for argument in arguments]
    assert main([*command, *given]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1
