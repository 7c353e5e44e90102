import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from experiments.proofs.samples import SAMPLES, arrays, safetensors_file, write
from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers import READERS, open_checkpoint

MINE = ("safetensors", "sharded", "pytorch", "pytorch_legacy", "stable_baselines3", "npz")
ONE_LINE = r"^[^\n]+: [^\n]+; [^\n]+$"


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_opens_by_its_content(tmp_path, name):
    path = SAMPLES[name](tmp_path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensors and isinstance(checkpoint.metadata["left_out"], tuple)
    if path.is_file():
        module = READERS[str(checkpoint.metadata["format"])]
        assert module == name.partition("-")[0]
        assert open_checkpoint(path.rename(path.with_name("nameless"))).tensors.keys() == checkpoint.tensors.keys()


@pytest.mark.parametrize(
    "name", [n for n in SAMPLES if n.partition("-")[0] in MINE and not re.search("quantized|packed", n)]
)
def test_every_sample_holds_what_was_written(tmp_path, name):
    checkpoint = open_checkpoint(SAMPLES[name](tmp_path))
    expected = {name: array for name, array in arrays().items() if array.dtype == np.float32}
    assert expected.keys() <= checkpoint.tensors.keys()
    for key, array in expected.items():
        tensor = checkpoint.tensors[key]
        assert isinstance(tensor, LazyTensor) and tensor.shape == array.shape
        np.testing.assert_allclose(np.asarray(tensor), array, rtol=0.01)
        if array.ndim:
            np.testing.assert_array_equal(tensor.rows(1, 3), np.asarray(tensor)[1:3])
    assert "norm.num_batches_tracked" in checkpoint.metadata["left_out"]


@pytest.mark.parametrize("name", [n for n in SAMPLES if n.partition("-")[0] in MINE])
def test_every_truncation_is_refused_in_one_line(tmp_path, name):
    path = SAMPLES[name](tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 23, max(1, len(whole) // 150)):  # a zip's last 22 bytes may be its comment
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=ONE_LINE):
            for tensor in open_checkpoint(path).tensors.values():
                np.asarray(tensor)


def test_config_beside_the_file(tmp_path):
    path = safetensors_file(tmp_path)
    assert "config" not in open_checkpoint(path).metadata
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    assert open_checkpoint(path).metadata["config"] == {"hidden_size": 4}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 10**5])
def test_broken_config_is_named(tmp_path, text):
    path = safetensors_file(tmp_path)
    write(tmp_path / "config.json", text)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        open_checkpoint(path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_are_those_of_the_file_whatever_wrapped_the_model(tmp_path, prefix):
    path = tmp_path / "a.safetensors"
    one = np.ones(2, np.float32)
    safetensors.numpy.save_file({f"{prefix}a.weight": one, f"{prefix}b.weight": one}, path)
    assert open_checkpoint(path).tensors.keys() == {f"{prefix}a.weight", f"{prefix}b.weight"}


@pytest.mark.parametrize("path", ["missing", "file/inside", "nul\0byte", "x" * 5000])
def test_missing_files(tmp_path, path):
    write(tmp_path / "file", b"x")
    with pytest.raises(CheckpointError, match=ONE_LINE):
        open_checkpoint(tmp_path / path)


@pytest.mark.parametrize("content", [b"text\n" * 50, b"\xfe\xed" + b"\0" * 50, b"\0" * 5000, b"\xfe%-1.7\n%\xe2\xe3"])
def test_unknown_formats_are_told_the_known_ones(tmp_path, content):
    with pytest.raises(CheckpointError, match=r"known format; give one of .*safetensors, .*PyTorch, "):
        open_checkpoint(write(tmp_path / "file", content))


def test_empty_files_folders_and_pipes(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="is empty"):
        open_checkpoint(write(tmp_path / "file", b""))
    (folder := tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="folder"):
        open_checkpoint(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(CheckpointError, match="the folder holds no checkpoint"):
        open_checkpoint(".")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        open_checkpoint(tmp_path / "pipe")


def test_files_that_must_not_be_read(tmp_path, monkeypatch):
    path = safetensors_file(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("wsrl.readers.mapped.open", refuse, raising=False)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\); allow reading it"):
        open_checkpoint(path)


def test_files_without_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"steps": np.ones(2, np.int64)}, path)
    with pytest.raises(CheckpointError, match="no floating-point tensor, only 'steps'"):
        open_checkpoint(path)


def test_reading_needs_neither_jax_nor_torch(tmp_path):
    paths = [SAMPLES[name]((tmp_path / name, (tmp_path / name).mkdir())[0]) for name in MINE]
    code = (
        "import sys; from wsrl.readers import open_checkpoint\n"
        "for path in sys.argv[1:]: open_checkpoint(path)\n"
        "assert not {'jax', 'flax', 'torch', 'h5py', 'onnx'} & set(sys.modules)"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, cwd=root)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_numbers_are_two(tmp_path, dtype):
    array = (np.arange(6).reshape(3, 2) + 1j * np.arange(6, 12).reshape(3, 2)).astype(dtype)
    np.savez(tmp_path / "a.npz", w=array, s=np.array(1 + 2j, dtype))
    checkpoint = open_checkpoint(tmp_path / "a.npz")
    expected = np.stack([array.real, array.imag], -1)
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), expected)
    np.testing.assert_array_equal(checkpoint.tensors["w"].rows(1, 2), expected[1:2])
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["s"]), [1, 2])
    assert checkpoint.metadata["warnings"][0].startswith("tensor 'w' and 1 more: complex")


def test_empty_tensors_are_told(tmp_path):
    empty, whole = np.empty(0, np.float32), np.ones(3, np.float32)
    safetensors.numpy.save_file({"a": empty, "b": empty, "c": whole}, tmp_path / "a.safetensors")
    (warning,) = open_checkpoint(tmp_path / "a.safetensors").metadata["warnings"]
    assert warning.startswith("tensor 'a' and 1 more: empty, as DeepSpeed's ZeRO-3")
    safetensors.numpy.save_file({"a": empty, "b": empty}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"all its tensors are empty.*; gather the weights"):
        open_checkpoint(tmp_path / "b.safetensors")
