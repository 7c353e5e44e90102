"""Groups of tensors that a file stores in parts."""

import json

import numpy as np
import safetensors.numpy

from wsrl.cli.main import main
from wsrl.wiring.stored_names import with_stored_names


def inspected(tmp_path, tensors, capsys):
    """What `wsrl inspect --json` prints of a file."""
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file(tensors, path)
    assert main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_weight_norm_is_claimed_in_the_names_of_the_file(tmp_path, capsys):
    rng = np.random.default_rng(0)
    tensors = {
        "0.weight_g": rng.uniform(1, 2, (12, 1)).astype(np.float32),
        "0.weight_v": rng.normal(size=(12, 8)).astype(np.float32),
        "0.bias": rng.normal(size=12).astype(np.float32),
        "2.weight": rng.normal(size=(5, 12)).astype(np.float32),
    }
    found = inspected(tmp_path, tensors, capsys)
    assert set(found["tensors"]) == set(tensors)
    direction, gain = found["tensors"]["0.weight_v"]["axes"], found["tensors"]["0.weight_g"]["axes"]
    assert direction[0] == gain[0] and gain[1] is None
    assert found["groups"][direction[0][0]["group"]]["permutable"]
    (tmp_path / "wiring.json").write_text(json.dumps({k: v for k, v in found.items() if k not in ("file", "format")}))
    path = tmp_path / "m.safetensors"
    assert main(["inspect", str(path), "--json", "--wiring", str(tmp_path / "wiring.json")]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == found["tensors"]


def test_groups_of_spectral_norm_are_not_claimed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    tensors = {
        "0.weight_orig": rng.normal(size=(12, 8)).astype(np.float32),
        "0.weight_u": rng.normal(size=12).astype(np.float32),
        "0.weight_v": rng.normal(size=8).astype(np.float32),
        "2.weight": rng.normal(size=(5, 12)).astype(np.float32),
    }
    found = inspected(tmp_path, tensors, capsys)
    assert set(found["tensors"]) == set(tensors)
    held = found["tensors"]["0.weight_orig"]["axes"][0][0]["group"]
    assert not found["groups"][held]["permutable"]


def test_a_wiring_without_parts_stays_as_it_is():
    wiring = {"tensors": {}, "groups": {}}
    assert with_stored_names(wiring, {}) is wiring
