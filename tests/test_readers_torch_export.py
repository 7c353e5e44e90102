import json
import zipfile

import numpy as np
import pytest

from experiments.proofs.samples import SAMPLES
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint


def test_weights(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["torch_export"](tmp_path))
    assert set(checkpoint.tensors) == {"w", "c"} and checkpoint.metadata["tied"] == {"tied": "w"}
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), np.arange(6.0).reshape(2, 3))
    assert checkpoint.metadata["warnings"][0].startswith("tensor 'pickled' is not read")


def meta(dtype=7, sizes=(2, 3), strides=(3, 1), offset=0):
    lengths = {"sizes": [{"as_int": n} for n in sizes], "strides": [{"as_int": n} for n in strides]}
    return {"dtype": dtype, "storage_offset": {"as_int": offset}, **lengths}


def opened(folder, entry):
    described = {"config": {"w": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": entry}}}
    with zipfile.ZipFile(folder / "a.pt2", "w") as archive:
        archive.writestr("m/data/weights/model_weights_config.json", json.dumps(described))
        archive.writestr("m/data/weights/weight_0", bytes(24))
    return open_checkpoint(folder / "a.pt2")


BROKEN = [
    meta(sizes=(2, 4), strides=(4, 1)),
    meta(offset=1),
    meta(strides=(2**40, 1)),
    meta(dtype=99),
    meta(sizes=(-2, 3)),
    meta(sizes=(2.5, 3)),
    {"dtype": 7},
    None,
]


@pytest.mark.parametrize("entry", BROKEN)
def test_views_that_do_not_fit_are_refused(tmp_path, entry):
    assert opened(tmp_path, meta()).tensors["w"].shape == (2, 3)
    with pytest.raises(CheckpointError):
        opened(tmp_path, entry)
