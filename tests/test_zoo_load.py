import numpy as np
import pytest
from small_zoo import write_zoo

from wsrl.checkpoint import CheckpointError
from wsrl.zoo.load import StoredCheckpoints, load_networks
from wsrl.zoo.storage import STORAGES


@pytest.mark.parametrize("storage", STORAGES)
def test_stored_checkpoints_are_those_of_the_zoo_in_any_order(tmp_path, storage):
    records = write_zoo(tmp_path, storage)
    expected = load_networks(tmp_path, records, 16).checkpoints
    stored = StoredCheckpoints(tmp_path, records)
    assert len(stored) == len(expected) == 8
    for place in (5, 0, 7, 5):
        found = stored[place]
        assert found.metadata == expected[place].metadata and found.metadata["input_shape"] == [8, 8, 1]
        assert found.tensors.keys() == expected[place].tensors.keys()
        for name, tensor in found.tensors.items():
            np.testing.assert_array_equal(tensor, expected[place].tensors[name])
    assert [checkpoint.path for checkpoint in stored] == [checkpoint.path for checkpoint in expected]


def test_a_stored_checkpoint_that_was_damaged_since_is_told(tmp_path):
    records = write_zoo(tmp_path)
    stored = StoredCheckpoints(tmp_path, records)
    (tmp_path / records[3].path).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="model-3"):
        stored[3]
    assert stored[2].tensors
