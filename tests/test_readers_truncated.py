import os

import numpy as np
import pytest

from experiments.proofs import fuzz, samples
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint

ONE_LINE = r"^[^\n]+: [^\n]+; [^\n]+$"
FOLDERS = ("orbax", "huggingface", "tensorflow", "coreml")
SAMPLES = {name: write for name, write in fuzz.SAMPLES.items() if name not in samples.SAMPLES}
FILES = [name for name in SAMPLES if name.partition("-")[0] not in FOLDERS and name != "keras-shards"]


def read(path):
    return {name: np.asarray(tensor).tolist() for name, tensor in open_checkpoint(path).tensors.items()}


def refused_or_whole(path, whole):
    """Whether a damaged checkpoint is refused in one line; if it is not, it must hold all that it held."""
    try:
        assert read(path) == whole
        return False
    except CheckpointError as error:
        assert str(error).count("\n") == 0 and str(error).count("; ")
        return True


@pytest.mark.parametrize("name", FILES)
def test_truncated_files(tmp_path, name):
    path = SAMPLES[name](tmp_path)
    whole, content = read(path), path.read_bytes()
    refused = []
    for length in sorted({0, 1, *range(0, len(content), max(1, len(content) // 100)), len(content) - 1}):
        path.write_bytes(content[:length])
        refused.append(refused_or_whole(path, whole))
    assert all(refused[: len(refused) * 4 // 5])  # a few last bytes may be padding or a description


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in FILES])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "a folder"])
def test_folders_whose_files_are_damaged(tmp_path, name, damage):
    path = SAMPLES[name](tmp_path)
    whole = read(path)
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        content = file.read_bytes()
        file.unlink()
        if damage == "a folder":
            file.mkdir()
        elif damage != "missing":
            file.write_bytes(content[: len(content) // 2] if damage == "half" else b"")
        if file.name not in ("_METADATA", "model.safetensors"):  # something else takes their place
            refused_or_whole(path, whole)
        file.rmdir() if damage == "a folder" else file.unlink(missing_ok=True)
        file.write_bytes(content)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
@pytest.mark.parametrize("name", FILES)
def test_files_that_may_not_be_read(tmp_path, name):
    path = SAMPLES[name](tmp_path)
    path.chmod(0)
    with pytest.raises(CheckpointError, match=ONE_LINE):
        open_checkpoint(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(tmp_path, value):
    path = SAMPLES["gguf"](tmp_path)
    matrix = np.random.default_rng(0).standard_normal((3, 64)).astype("<f4")
    content = path.read_bytes()
    assert matrix.tobytes() in content
    path.write_bytes(content.replace(matrix.tobytes(), np.full_like(matrix, value).tobytes()))
    tensor = open_checkpoint(path).tensors["plain.weight"]
    with pytest.raises(CheckpointError, match=r"plain\.weight.*NaN or Inf"):
        tensor.rows(0, 1)
