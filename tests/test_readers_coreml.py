import numpy as np
import pytest

from experiments.proofs.protobuf_files import message
from experiments.proofs.samples import write
from experiments.proofs.samples_coreml import SAMPLES, numbers
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring


def same(checkpoint, expected):
    assert checkpoint.tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(np.asarray(checkpoint.tensors[name]), array.astype(np.float32), rtol=1e-6)


def test_a_program_and_its_compressed_constants(tmp_path):
    a = numbers()
    table = a["table"].astype(np.float32)[:, 0, :, 0]
    looked_up = np.stack([table[row // 3][a["codes"][row]] for row in range(6)])
    scaled = a["int4"] * np.repeat(a["scale"].astype(np.float32), 3, axis=1)
    expected = {"conv_w": a["conv"], "c.bias": a["bias"], "w1": looked_up, "w2": scaled.T}
    path = SAMPLES["coreml"](tmp_path)
    inner = path / "Data" / "com.apple.CoreML"
    for given in (path, inner / "model.mlmodel", inner / "weights" / "weight.bin"):
        same(open_checkpoint(given), expected)
    np.testing.assert_allclose(np.asarray(open_checkpoint(path).tensors["w1"])[2:5], looked_up[2:5])


def test_the_program_gives_the_wiring(tmp_path):
    wiring = infer_wiring(open_checkpoint(SAMPLES["coreml"](tmp_path)))
    assert wiring.coverage["graph"] == 1
    assert sorted(group.size for group in wiring.groups.values() if group.permutable) == [4, 6]
    assert [operation.type for operation in wiring.operations] == ["conv", "linear", "linear"]


def test_the_operators_of_old_programs(tmp_path):
    a = numbers()
    expected = {"w1": a["table"][0, 0, :, 0][a["codes"]], "w2": a["sparse"]}
    expected["w3"] = (a["int8"].astype(np.float32) - 1) * a["old scale"][:, None]
    same(open_checkpoint(SAMPLES["coreml-old"](tmp_path)), expected)


def test_a_network_in_a_pipeline(tmp_path):
    a = numbers()
    checkpoint = open_checkpoint(SAMPLES["coreml-network"](tmp_path))
    head = (a["int8"].view(np.uint8).astype(np.float32) + 1) * a["old scale"][:, None]
    expected = {"conv.weight": a["conv"], "conv.bias": a["bias"]}
    expected |= {"dense.weight": a["table"][0, 0, :, 0][a["codes"]], "head.weight": head}
    same(checkpoint, {f"model0.{name}": array for name, array in expected.items()})
    assert checkpoint.metadata["warnings"] == (
        "a part of the pipeline is not read: it holds a tree ensemble, no network",
    )


def test_what_is_no_network_or_not_whole_is_named(tmp_path):
    path = write(tmp_path / "a.mlmodel", message((1, 1), (2, message((1, message((1, "x"))))), (302, b"")))
    with pytest.raises(CheckpointError, match="holds a tree ensemble, no network"):
        open_checkpoint(path)
    package = SAMPLES["coreml"](tmp_path)
    weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    (tmp_path / "weight.bin").write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match=r"without names and shapes; give the whole \.mlpackage"):
        open_checkpoint(tmp_path / "weight.bin")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is not where it is said to be"):
        open_checkpoint(package)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"lacks its file 'weights/weight\.bin'"):
        open_checkpoint(package)
    (package / "model.mil").touch()
    (package / "coremldata.bin").touch()
    with pytest.raises(CheckpointError, match="is a compiled Core ML model"):
        open_checkpoint(package)
