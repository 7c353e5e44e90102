import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from experiments.proofs.samples import SAMPLES, arrays
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint

WEIGHTS = safetensors.numpy.save({"w": np.ones((2, 3), np.float32)})


@pytest.mark.parametrize("name", ["containers", "containers-tar", "containers-gzip"])
def test_the_one_model_in_an_archive(tmp_path, name):
    checkpoint = open_checkpoint(SAMPLES[name](tmp_path))
    for key, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(np.asarray(tensor), arrays()[key])
    assert checkpoint.metadata.get("config") == ({"model_type": "net"} if name == "containers" else None)


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            (info := tarfile.TarInfo(name)).size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


REFUSED = [
    (
        {"a.safetensors": WEIGHTS, "b/c.safetensors": WEIGHTS},
        r"2 models: 'a.safetensors', 'b/c.safetensors'; unpack it",
    ),
    ({"readme.txt": b"x"}, "without a file of weights"),
    ({"model.onnx": b"x"}, r"1 models: 'model.onnx'; unpack it"),
    ({"model.pt": b"x" * 100}, r"'model.pt' is of no format"),
    ({"a.safetensors": WEIGHTS, "config.json": b"{"}, "config.json"),
]


@pytest.mark.parametrize(("members", "reason"), REFUSED)
@pytest.mark.parametrize("write", [zipped, tarred])
def test_other_archives_are_refused(tmp_path, members, reason, write):
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(write(tmp_path / "a", members))


def test_the_tar_format_of_early_pytorch_is_named(tmp_path):
    members = dict.fromkeys(("sys_info", "pickle", "storages", "tensors"), b"x")
    with pytest.raises(CheckpointError, match="tar format of PyTorch before"):
        open_checkpoint(tarred(tmp_path / "a.pt", members))


def test_what_would_fill_the_memory_stays_packed(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1 << 28)))
    with pytest.raises(CheckpointError, match="would unpack to more than"):
        open_checkpoint(tmp_path / "a.gz")


def test_members_are_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("model.safetensors")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(CheckpointError, match="without a file of weights"):
        open_checkpoint(tmp_path / "a.tar")


def test_folders_may_come_first(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("folder")
        archive.writestr("folder/a.safetensors", WEIGHTS)
    assert open_checkpoint(tmp_path / "a.zip").metadata["member"] == "folder/a.safetensors"
