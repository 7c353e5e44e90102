import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from experiments.proofs.samples import SAMPLES, arrays
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint


def test_parts_without_their_index(tmp_path):
    path = SAMPLES["parts"](tmp_path)
    (path / "config.json").write_text('{"model_type": "net"}')
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.tensors) == {name for name, array in arrays().items() if array.dtype.kind == "f"}
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(np.asarray(tensor), arrays()[name])
    assert checkpoint.metadata["warnings"][0].startswith("the index of 2 parts is missing")
    assert checkpoint.metadata["config"] == {"model_type": "net"}


def test_a_part_alone_is_refused(tmp_path):
    path = SAMPLES["parts"](tmp_path)
    with pytest.raises(CheckpointError, match="is part 2 of 2 of a model; give its index or its folder"):
        open_checkpoint(path / "model-00002-of-00002.safetensors")


def test_the_only_part_is_a_model(tmp_path):
    safetensors.numpy.save_file({"w": np.ones(3, np.float32)}, tmp_path / "model-00001-of-00001.safetensors")
    assert list(open_checkpoint(tmp_path / "model-00001-of-00001.safetensors").tensors) == ["w"]


def test_parts_that_are_missing_or_of_two_models_are_refused(tmp_path):
    path = SAMPLES["parts"](tmp_path)
    part = path / "model-00001-of-00002.safetensors"
    shutil.copy(part, path / "other-00001-of-00003.safetensors")
    with pytest.raises(CheckpointError, match="parts of several models"):
        open_checkpoint(path)
    (path / "other-00001-of-00003.safetensors").unlink()
    shutil.copy(part, path / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="lies in several parts"):
        open_checkpoint(path)
    part.unlink()
    with pytest.raises(CheckpointError, match="lacks part 1 of 2 of 'model', and the index"):
        open_checkpoint(path)


def test_an_index_is_preferred(tmp_path):
    path = SAMPLES["parts"](tmp_path)
    weight_map = {"fc.weight": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert open_checkpoint(path).metadata["format"] == "Hugging Face"
