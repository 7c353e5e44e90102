import numpy as np
import pytest

from experiments.proofs import torch_files
from experiments.proofs.samples import SAMPLES
from experiments.proofs.torch_files import Call, Name
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint

WHERE = "torch.distributed.checkpoint.metadata"


def test_pieces_make_up_tensors(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["torch_distributed"](tmp_path))
    matrix = np.arange(20.0).reshape(4, 5)
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), matrix)
    for start, stop in ((0, 1), (1, 3), (2, 4), (2, 2)):
        np.testing.assert_array_equal(checkpoint.tensors["w"].rows(start, stop), matrix[start:stop])
    assert set(checkpoint.tensors) == {"w", "b"}
    assert set(checkpoint.metadata["left_out"]) == {"step", "optimizer.state.w"}


def test_a_part_alone_is_refused(tmp_path):
    path = SAMPLES["torch_distributed"](tmp_path)
    with pytest.raises(CheckpointError, match=r"a part of a distributed checkpoint; give its folder 'step-7'"):
        open_checkpoint(path / "__0_0.distcp")


def described(folder, pieces, shape=(2, 3)):
    """A folder with one matrix in pieces: offset, array, and what is said of their place."""
    content, stored = b"", {}
    for offset, array, place in pieces:
        array = np.ascontiguousarray(array, np.float32)
        data = torch_files.zip_bytes(torch_files.tensor(array, 0), [torch_files.storage(array, 0)])
        told = {"relative_path": "part.distcp", "offset": len(content), "length": len(data), **place}
        index = Call(Name(WHERE, "MetadataIndex"), (), {"fqn": "w", "offset": offset})
        stored[index] = Call(Name("torch.distributed.checkpoint.filesystem", "_StorageInfo"), (), told)
        content += data
    size = Call(Name("torch", "Size"), (shape,))
    tensors = {"w": Call(Name(WHERE, "TensorStorageMetadata"), (), {"size": size})}
    state = {"state_dict_metadata": tensors, "storage_data": stored}
    (folder / ".metadata").write_bytes(torch_files.dumps(Call(Name(WHERE, "Metadata"), (), state)))
    (folder / "part.distcp").write_bytes(content)
    return folder


ONE = np.arange(6.0).reshape(2, 3)
BROKEN = {
    "a gap": [((0, 0), ONE[:1], {})],
    "twice the same": [((0, 0), ONE[:1], {}), ((0, 0), ONE[1:], {})],
    "beyond the tensor": [((0, 0), ONE[:1], {}), ((2, 0), ONE[1:], {})],
    "another number of axes": [((0,), ONE, {})],
    "a negative place": [((-1, 0), ONE, {})],
    "beyond the file": [((0, 0), ONE, {"length": 10**6})],
    "another folder": [((0, 0), ONE, {"relative_path": "../part.distcp"})],
    "a file that is missing": [((0, 0), ONE, {"relative_path": "other.distcp"})],
    "no file": [((0, 0), ONE, {"relative_path": 7})],
}


@pytest.mark.parametrize("name", BROKEN)
def test_pieces_that_do_not_fit_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError):
        open_checkpoint(described(tmp_path, BROKEN[name]))


def test_links_out_of_the_folder_are_refused(tmp_path):
    (folder := tmp_path / "a").mkdir()
    described(folder, [((0, 0), ONE, {})])
    assert open_checkpoint(folder).tensors["w"].shape == (2, 3)
    (folder / "part.distcp").rename(tmp_path / "part.distcp")
    (folder / "part.distcp").symlink_to(tmp_path / "part.distcp")
    with pytest.raises(CheckpointError, match="a link out of it"):
        open_checkpoint(folder)


def test_code_in_the_description_is_refused(tmp_path):
    (tmp_path / ".metadata").write_bytes(torch_files.dumps(Call(Name("os", "system"), ("true",))))
    with pytest.raises(CheckpointError, match="can run code"):
        open_checkpoint(tmp_path)
