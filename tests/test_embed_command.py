import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from fake_encoder import FUNCTION, WEIGHTS, FakeEncoder, write_model
from small_zoo import write_zoo

from wsrl.cli.main import main
from wsrl.encoder import checkpoint_encoder
from wsrl.errors import InputError
from wsrl.search.sources import find_sources


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    fake = FakeEncoder()
    monkeypatch.setattr(checkpoint_encoder, "load_encoder", lambda directory=None: fake)
    return fake


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three models in a working folder, the last of which cannot be run."""
    monkeypatch.chdir(tmp_path)
    for i in (2, 10, 1):
        write_model(Path(f"zoo/{i}.safetensors"), i, function=i < 10)
    Path("zoo/README.md").write_text("three models")
    return tmp_path


def load(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_writes_what_the_encoder_said(folder, capsys, encoder):
    assert main(["embed", "zoo", "--out", "out/e.npz"]) == 0
    found = load("out/e.npz")
    assert found["ids"].tolist() == ["zoo/1.safetensors", "zoo/2.safetensors", "zoo/10.safetensors"]
    rows = list(FakeEncoder().embed(found["ids"].tolist()))
    np.testing.assert_array_equal(found["embeddings"], [row.weights for row in rows])
    np.testing.assert_array_equal(found["function"][:2], [row.function for row in rows[:2]])
    assert found["embeddings"].dtype == found["function"].dtype == np.float32
    assert np.isnan(found["function"][2]).all() and found["function"].shape == (3, FUNCTION)
    assert found["embeddings"].shape == (3, WEIGHTS)
    assert found["accuracy"][:2].tolist() == pytest.approx([row.accuracy for row in rows[:2]])
    assert np.isnan(found["accuracy"][2]) and found["encoder"] == encoder.hash
    assert found["parameters"].tolist() == [28, 28, 16] and set(found["architecture"]) == {"relu mlp"}
    assert set(found["assumed"]) == {"activation: relu"}
    assert capsys.readouterr().out == ""


def test_the_weights_alone(folder):
    assert main(["embed", "zoo", "--out", "e.npz", "--weights-only"]) == 0
    assert set(load("e.npz")) == {"ids", "embeddings", "architecture", "parameters", "assumed", "encoder"}


def test_the_first_broken_file_ends_it(folder, capsys):
    (folder / "zoo" / "5.safetensors").write_bytes(b"")
    assert main(["embed", "zoo", "--out", "e.npz"]) == 1
    assert "zoo/5.safetensors: is empty" in capsys.readouterr().err
    assert not (folder / "e.npz").exists()


def test_broken_files_are_skipped_on_demand(folder, capsys):
    (folder / "zoo" / "5.safetensors").write_bytes(b"")
    assert main(["embed", "zoo", "--out", "e.npz", "--skip-broken"]) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(told) == 1 and "zoo/5.safetensors" in told[0]
    assert len(load("e.npz")["ids"]) == 3


def test_the_name_of_the_output_is_checked(folder, capsys):
    assert main(["embed", "zoo", "--out", "e.txt"]) == 1
    assert ".npz" in capsys.readouterr().err


def test_nothing_is_written_when_everything_is_broken(folder, capsys):
    assert main(["embed", "missing", "--out", "e.npz", "--skip-broken"]) == 1
    assert not (folder / "e.npz").exists()


def test_names_come_from_stdin_and_each_once(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StringIO("zoo/1.safetensors\n\nzoo\n"))
    assert main(["embed", "-", "--out", "e.npz"]) == 0
    assert sorted(load("e.npz")["ids"].tolist()) == sorted(f"zoo/{i}.safetensors" for i in (1, 2, 10))


def test_an_interrupt_leaves_the_old_file(folder, encoder, monkeypatch):
    assert main(["embed", "zoo", "--out", "e.npz"]) == 0
    before = (folder / "e.npz").read_bytes()
    monkeypatch.setattr(encoder, "_row", interrupt)
    assert main(["embed", "zoo", "--out", "e.npz"]) == 130
    assert (folder / "e.npz").read_bytes() == before


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_zoo_in_shards_is_embedded_by_its_ids(folder):
    records = write_zoo(folder / "shards", "array_record")
    assert main(["embed", "shards", "--out", "e.npz"]) == 0
    assert load("e.npz")["ids"].tolist() == [record.id for record in records]


def found_ids(*names: str) -> list[str]:
    return [source.id for source in find_sources(names)[0]]


def test_folders_stand_for_the_checkpoints_in_them(folder):
    (folder / "zoo" / ".hidden.safetensors").write_bytes(b"")
    write_model(folder / "zoo" / "deep" / "er" / "4.safetensors", 4)
    (folder / "zoo" / "optimizer.pt").write_bytes(b"state")
    own = [f"zoo/{i}.safetensors" for i in (1, 2, 10)]
    assert found_ids("zoo", "hf://a/b", "x") == ["zoo/deep/er/4.safetensors", *own, "hf://a/b", "x"]
    (folder / "zoo" / "config.json").write_text("{}")
    assert found_ids("zoo") == ["zoo"]  # one model, as the hub lays it out
    (folder / "none").mkdir()
    with pytest.raises(InputError, match="without checkpoints"):
        found_ids("none")
