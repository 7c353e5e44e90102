"""Groups of tensors that a file stores in parts."""

import json

import numpy as np
import pytest
import safetensors.numpy

from wsrl.cli.main import main
from wsrl.wiring.permute import permuted
from wsrl.wiring.stored_names import with_stored_names
from wsrl.wiring.wiring_file import parse_wiring


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


@pytest.mark.parametrize("new", [False, True], ids=["old", "new"])
def test_spectral_norm_is_claimed_in_the_names_of_the_file(tmp_path, capsys, new):
    """What is stored is divided by its largest singular value, which vectors beside it tell (Miyato et al., 2018)."""
    names = ("parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v")
    weight, left, right = names if new else ("weight_orig", "weight_u", "weight_v")
    rng, tensors = np.random.default_rng(0), {}
    for path, shape in (("0", (12, 3, 3, 3)), ("2", (24, 12, 3, 3)), ("5", (2, 24))):
        w = rng.normal(size=shape)
        u, _, v = np.linalg.svd(w.reshape(len(w), -1), full_matrices=False)
        tensors |= {f"{path}.{weight}": w, f"{path}.{left}": u[:, 0].copy(), f"{path}.{right}": v[0]}

    def outputs(t):
        x = np.random.default_rng(1).standard_normal((3, 3, 3))
        for path in ("0", "2", "5"):
            w = t[f"{path}.{weight}"].astype(np.float64)
            w = w / (t[f"{path}.{left}"] @ w.reshape(len(w), -1) @ t[f"{path}.{right}"])
            x = np.einsum("oihw,ihw->o", w, x) if w.ndim == 4 else w @ x
            x = np.maximum(np.broadcast_to(x[:, None, None], (len(x), 3, 3)) if path == "0" else x, 0)
        return x

    stored = {name: t.astype(np.float32) for name, t in tensors.items()}
    found = inspected(tmp_path, stored, capsys)
    claim = {key: found[key] for key in ("groups", "tensors")}
    wiring = parse_wiring(claim, {name: t.shape for name, t in tensors.items()}, "m")
    assert [axis is None for axis in wiring.axes[f"2.{weight}"][:2]] == [False, False]
    assert sum(group.permutable for group in wiring.groups.values()) == 2
    np.testing.assert_allclose(outputs(permuted(tensors, wiring, 1)), outputs(tensors), rtol=1e-9)


def test_a_square_kernel_may_be_transposed_and_is_not_claimed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    shapes = {"0.weight_orig": (12, 3, 3, 3), "0.weight_u": (12,), "0.weight_v": (27,), "2.weight_orig": (12, 12, 3, 3)}
    shapes |= {"2.weight_u": (12,), "2.weight_v": (108,), "5.weight": (5, 12)}
    found = inspected(tmp_path, {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}, capsys)
    assert not any(group["permutable"] for group in found["groups"].values())


def test_a_wiring_without_parts_stays_as_it_is():
    wiring = {"tensors": {}, "groups": {}}
    assert with_stored_names(wiring, {}) is wiring
