import numpy as np
import pytest

from experiments.proofs.samples_openvino import SAMPLES, numbers
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.readers.codebooks import NF4
from wsrl.wiring.infer_wiring import infer_wiring


def test_constants_and_their_dequantization(tmp_path):
    path, a = SAMPLES["openvino"](tmp_path), numbers()
    for given in (path, path.with_suffix(".bin")):
        tensors = [np.asarray(tensor) for tensor in open_checkpoint(given).tensors.values()]
        four = ((a["codes"] - a["zero"]) * a["scale"].astype(np.float32)).reshape(8, 4).T
        expected = [a["conv"], a["grouped"].reshape(4, 1, 3, 3), four, (a["bytes"] * a["steps"]).T]
        for tensor, array in zip(tensors, expected, strict=True):
            np.testing.assert_allclose(tensor, array.astype(np.float32), rtol=1e-6)


def test_the_graph_gives_the_wiring(tmp_path):
    wiring = infer_wiring(open_checkpoint(SAMPLES["openvino"](tmp_path)))
    assert wiring.coverage["graph"] == 1 and not wiring.warnings
    hidden = sorted(group.size for group in wiring.groups.values() if group.permutable)
    assert hidden == [4, 8]
    assert [operation.type for operation in wiring.operations] == ["conv", "conv", "linear", "linear"]


def test_bodies_of_loops_hold_constants_too(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["openvino-loop"](tmp_path))
    inner, outer = (np.asarray(tensor) for tensor in checkpoint.tensors.values())
    np.testing.assert_array_equal(inner, np.arange(4))
    np.testing.assert_array_equal(outer, NF4[:8].reshape(4, 2))


def test_the_constants_must_be_there(tmp_path):
    path = SAMPLES["openvino"](tmp_path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks its file 'model\.bin'"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('version="11"', 'version="7"', "is of version '7'"),
        ('size="216"', 'size="218"', "cannot be 218 of"),
        ('offset="0"', 'offset="-1"', "not a whole number"),
        ('element_type="f16"', 'element_type="f17"', "unknown type 'f17'"),
        ("<net ", '<!DOCTYPE x [<!ENTITY a "b">]><net ', "defines entities"),
        ("</net>", "", "not well-formed XML"),
        ('to-layer="2"', 'to-layer="99"', "leads nowhere"),
        ('name="relu', 'name="const_1" type="x" name="relu', "not well-formed XML"),
    ],
)
def test_nets_that_are_not_well_formed(tmp_path, old, new, reason):
    path = SAMPLES["openvino"](tmp_path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(path)
