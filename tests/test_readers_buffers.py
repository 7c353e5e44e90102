import ml_dtypes
import numpy as np
import pytest

from experiments.proofs import torch_files
from experiments.proofs.samples import write
from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers import open_checkpoint
from wsrl.readers.buffers import is_infinite_constant

INF = np.inf
CONSTANTS = {
    "a causal mask": np.triu(np.full((5, 5), -INF), 1),
    "a mask with slopes": np.triu(np.full((5, 5), -INF), 1) + np.tril(np.arange(5.0)[:, None] - np.arange(5.0)),
    "a mask of the largest number": np.triu(np.full((5, 5), np.finfo(np.float32).min), 1),
    "a mask of batches": np.triu(np.full((1, 1, 4, 4), -INF), 1),
    "a bound": np.array(INF),
    "two bounds": np.array([-INF, INF]),
}
WEIGHTS = {
    "weights": np.ones((3, 4)),
    "one entry overflowed": np.array([1.0, INF]),
    "a row overflowed": np.concatenate([np.full((1, 4), INF), np.ones((20, 4))]),
    "not a number": np.array([[np.nan, INF], [0, 0]]),
    "all overflowed": np.full((3, 64), INF),
    "no entries": np.empty((0, 3)),
}


@pytest.mark.parametrize("name", CONSTANTS | WEIGHTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_infinite_constants(name, dtype):
    array = (CONSTANTS | WEIGHTS)[name]
    if dtype != np.float32 and "largest" in name:
        array = np.where(array < 0, float(ml_dtypes.finfo(dtype).min), 0)
    tensor = LazyTensor.of(array.astype(dtype), "file", "w")
    assert is_infinite_constant(tensor) == (name in CONSTANTS)


def test_masks_are_left_out(tmp_path):
    arrays = {"weight": np.ones((3, 4), np.float32), "mask": CONSTANTS["a causal mask"].astype(np.float32)}
    value, storages = torch_files.state_dict(arrays)
    checkpoint = open_checkpoint(write(tmp_path / "a.pt", torch_files.zip_bytes(value, storages)))
    assert list(checkpoint.tensors) == ["weight"] and checkpoint.metadata["left_out"] == ("mask",)


def test_weights_that_overflowed_are_refused(tmp_path):
    value, storages = torch_files.state_dict({"w": WEIGHTS["a row overflowed"].astype(np.float32)})
    checkpoint = open_checkpoint(write(tmp_path / "a.pt", torch_files.zip_bytes(value, storages)))
    with pytest.raises(CheckpointError, match="holds NaN or Inf"):
        np.asarray(checkpoint.tensors["w"])
