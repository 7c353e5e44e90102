import json
import os
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from experiments.proofs import torch_files
from experiments.proofs.samples import arrays, sharded_files, write
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint


def test_shards_of_pytorch(tmp_path):
    tensors = {name: array for name, array in arrays().items() if array.dtype == np.float32}
    weight_map = {}
    for number, (name, array) in enumerate(tensors.items()):
        file = f"pytorch_model-{number}.bin"
        write(tmp_path / file, torch_files.zip_bytes(*torch_files.state_dict({name: array})))
        weight_map[name] = file
    index = write(tmp_path / "pytorch_model.bin.index.json", json.dumps({"weight_map": weight_map}).encode())
    found = open_checkpoint(index).tensors
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(np.asarray(found[name]), array)


BAD = ["../a.safetensors", "/etc/passwd", "..", ".", "", "sub/a.safetensors", "a\\b", "a\0b", "\ud800", "a\nb"]


@pytest.mark.parametrize("name", [*BAD, None, 1, ["a"], {"a": 1}])
def test_shards_stay_in_the_folder(tmp_path, name):
    (folder := tmp_path / "folder").mkdir()
    safetensors.numpy.save_file({"w": np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    index = write(folder / "model.safetensors.index.json", json.dumps({"weight_map": {"w": name}}).encode())
    with pytest.raises(CheckpointError, match=r"not in its folder; .* trust"):
        open_checkpoint(index)


def test_shards_that_are_missing_or_of_another_kind(tmp_path):
    index = sharded_files(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="neither safetensors nor PyTorch"):
        open_checkpoint(index)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"index\.json: its file '.*' cannot be read"):
        open_checkpoint(index)
    os.mkfifo(shard)
    with pytest.raises(CheckpointError, match="neither a file"):
        open_checkpoint(index)
    shard.unlink()
    with zipfile.ZipFile(shard, "w") as archive:
        archive.writestr("a.txt", "nothing")
    with pytest.raises(CheckpointError, match="neither safetensors nor PyTorch"):
        open_checkpoint(index)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", {"other": "model-00001-of-00002.safetensors"}])
def test_broken_indices(tmp_path, weight_map):
    index = sharded_files(tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError):
        open_checkpoint(index)


def test_tensors_that_the_index_does_not_name_are_left_out(tmp_path):
    index = sharded_files(tmp_path)
    content = json.loads(index.read_text())
    del content["weight_map"]["fc.bias"]
    index.write_text(json.dumps(content))
    assert "fc.bias" in open_checkpoint(index).metadata["left_out"]
