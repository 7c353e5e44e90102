import json

import numpy as np
import pytest
import safetensors.numpy
from claim_networks import convolutional, transformer

import wsrl.embedding
from wsrl.cli.embed import expand
from wsrl.cli.main import main
from wsrl.encoder.group_readout import DIM, encoder_hash
from wsrl.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three models of one architecture in a working folder, and a wiring file for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    for i in (2, 10, 1):
        checkpoint, claim = transformer(i)
        safetensors.numpy.save_file(dict(checkpoint.tensors), f"zoo/{i}.safetensors")
    (tmp_path / "zoo" / "README.md").write_text("three models")
    (tmp_path / "wiring.json").write_text(json.dumps(claim.to_json()))
    return tmp_path


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_writes_ids_embeddings_and_the_encoder(folder, capsys):
    assert main(["embed", "zoo", "--out", "out/e.npz", "--wiring", "wiring.json"]) == 0
    found = load("out/e.npz")
    assert found["ids"].tolist() == ["zoo/1.safetensors", "zoo/2.safetensors", "zoo/10.safetensors"]
    assert found["embeddings"].shape == (3, DIM) and found["embeddings"].dtype == np.float32
    assert found["encoder"] == encoder_hash()
    assert capsys.readouterr().out == ""


def test_infers_the_wiring_without_a_file(folder):
    assert main(["embed", "zoo/1.safetensors", "--out", "e.npz"]) == 0
    assert load("e.npz")["ids"].tolist() == ["zoo/1.safetensors"]


def test_the_first_broken_file_ends_it(folder, capsys):
    (folder / "zoo" / "5.safetensors").write_bytes(b"")
    assert main(["embed", "zoo", "--out", "e.npz", "--wiring", "wiring.json"]) == 1
    assert "zoo/5.safetensors: is empty" in capsys.readouterr().err
    assert not (folder / "e.npz").exists()


def test_broken_files_are_skipped_on_demand(folder, capsys):
    (folder / "zoo" / "5.safetensors").write_bytes(b"")
    assert main(["embed", "zoo", "--out", "e.npz", "--wiring", "wiring.json", "--skip-broken"]) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(told) == 1 and "zoo/5.safetensors" in told[0]
    assert len(load("e.npz")["ids"]) == 3


def test_a_wiring_of_another_architecture_is_told(folder, capsys):
    safetensors.numpy.save_file(dict(convolutional()[0].tensors), "other.safetensors")
    assert main(["embed", "other.safetensors", "--out", "e.npz", "--wiring", "wiring.json"]) == 1
    assert "wiring.json" in capsys.readouterr().err.splitlines()[-1]


def test_the_name_of_the_output_is_checked(folder, capsys):
    assert main(["embed", "zoo", "--out", "e.txt"]) == 1
    assert ".npz" in capsys.readouterr().err


def test_nothing_is_written_when_everything_is_broken(folder, capsys):
    assert main(["embed", "missing", "--out", "e.npz", "--skip-broken"]) == 1
    assert not (folder / "e.npz").exists()


def test_a_name_given_twice_is_refused(folder, capsys):
    assert main(["embed", "zoo/1.safetensors", "zoo", "--out", "e.npz"]) == 1
    assert "more than once" in capsys.readouterr().err


def test_an_interrupt_leaves_the_old_file(folder, monkeypatch):
    main(["embed", "zoo", "--out", "e.npz", "--wiring", "wiring.json"])
    before = (folder / "e.npz").read_bytes()
    monkeypatch.setattr(wsrl.embedding, "open_checkpoint", interrupt)
    assert main(["embed", "zoo", "--out", "e.npz", "--wiring", "wiring.json"]) == 130
    assert (folder / "e.npz").read_bytes() == before


def interrupt(source):
    raise KeyboardInterrupt


def test_folders_stand_for_the_checkpoints_in_them(folder):
    (folder / "zoo" / ".hidden.safetensors").write_bytes(b"")
    assert expand(["zoo", "hf://a/b", "x"]) == [*(f"zoo/{i}.safetensors" for i in (1, 2, 10)), "hf://a/b", "x"]
    (folder / "zoo" / "config.json").write_text("{}")
    assert expand(["zoo"]) == ["zoo"]  # one model, as the hub lays it out
    (folder / "none").mkdir()
    with pytest.raises(InputError, match="without checkpoints"):
        expand(["none"])
