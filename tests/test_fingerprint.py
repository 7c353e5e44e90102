import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from experiments.proofs.samples import SAMPLES, perceptron_file
from wsrl.checkpoint import Checkpoint
from wsrl.cli.main import main
from wsrl.origins.family import family_digest
from wsrl.origins.fingerprint import fingerprint
from wsrl.signature.digest import exact_digest
from wsrl.signature.matrices import matrices
from wsrl.wiring.infer_wiring import infer_wiring

# They stand in other people's records: a change of any of these needs another name for the digest.
EXACT = "7af2b70e"
CANONICAL = "dc21c3fa"
FAMILY = "c017622cc3d519c6-4d313a24f7323fa8"


def tensors(seed: int = 0, widths: tuple[int, ...] = (8, 16, 16, 3)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for i, (rows, columns) in enumerate(zip(widths[1:], widths[:-1], strict=True)):
        made[f"{i}.weight"] = rng.standard_normal((rows, columns)).astype(np.float32)
        made[f"{i}.bias"] = rng.standard_normal(rows).astype(np.float32)
    return made


def family(own: dict[str, np.ndarray]) -> str:
    checkpoint = Checkpoint("x", own, {})
    wiring = infer_wiring(checkpoint)
    return family_digest(matrices(checkpoint, wiring), wiring)


@pytest.mark.parametrize("name", ["safetensors", "sharded", "pytorch", "pytorch-script", "containers-tar", "parts"])
def test_digests_are_golden_and_free_of_the_container(tmp_path, name):
    own = fingerprint(SAMPLES[name](tmp_path))
    assert (own.exact[:8], own.canonical[:8], own.family) == (EXACT, CANONICAL, FAMILY)


def test_exact_sees_names_types_shapes_and_every_number():
    own = tensors()
    digest = exact_digest(own)
    assert exact_digest(dict(reversed(own.items()))) == digest
    bias = own["0.bias"].copy()
    bias[0] = np.nextafter(bias[0], np.float32(9))
    other = [
        {("x" if name == "0.bias" else name): tensor for name, tensor in own.items()},
        own | {"0.bias": own["0.bias"].astype(np.float64)},
        own | {"0.bias": own["0.bias"][None]},
        own | {"0.bias": bias},
        own | {"0.weight": own["0.weight"][:, ::-1]},
    ]
    assert len({digest, *map(exact_digest, other)}) == 6
    assert exact_digest(own | {"0.bias": np.full(16, np.nan, np.float32)}) != digest  # and raises nothing


def test_bfloat16_is_exact_and_its_float32_copy_canonically_the_same(tmp_path):
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors().items()}
    found = []
    for name, own in {"half": half, "wide": {n: t.astype(np.float32) for n, t in half.items()}}.items():
        safetensors.numpy.save_file(own, tmp_path / name)
        found.append(fingerprint(tmp_path / name))
    assert found[0].canonical == found[1].canonical and found[0].family == found[1].family
    assert found[0].exact != found[1].exact and found[0].file != found[1].file


@given(st.integers(0, 100))
def test_the_family_knows_no_weights_names_or_layout(seed):
    own = tensors(seed)
    renamed = {f"net.{name}": tensor for name, tensor in own.items()}
    assert family(own) == family(tensors(1)) == family(renamed)
    transposed = {n: t.T.copy() for n, t in own.items()}
    assert family(own).partition("-")[0] == family(transposed).partition("-")[0]


def test_the_family_sees_widths_depth_and_wiring():
    found = [family(tensors(widths=w)) for w in ((8, 16, 16, 3), (8, 16, 3), (8, 16, 16, 4), (8, 16, 16, 16, 3))]
    assert len({own.partition("-")[0] for own in found}) == 4
    own = tensors(widths=(16, 16, 16, 16))
    checkpoint = Checkpoint("x", own, {})
    wiring = infer_wiring(checkpoint)
    cut = dataclasses.replace(wiring, axes={**wiring.axes, "1.weight": (None, None)})
    one, other = (family_digest(matrices(checkpoint, w), w).split("-") for w in (wiring, cut))
    assert one[0] == other[0] and one[1] != other[1]


def test_the_command(tmp_path, capsys):
    perceptron_file(tmp_path / "a.safetensors", seed=0)
    (tmp_path / "b.safetensors").write_bytes(b"no checkpoint")
    assert main(["fingerprint", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    (line,) = map(json.loads, out.splitlines())
    assert line.pop("wsrl") == 1
    assert line == vars(fingerprint(tmp_path / "a.safetensors"))
    assert err.startswith(f"left out: {tmp_path / 'b.safetensors'}: ") and err.count("\n") == 1
    assert main(["fingerprint", str(tmp_path / "a.safetensors")]) == 0
    out = capsys.readouterr().out
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["file", "exact", "canonical", "family"]
    assert all(digest in out for digest in line.values())
