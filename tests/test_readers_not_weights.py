import pytest

from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.readers.not_weights import explain

FILES = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n": "is a pointer of git-lfs",
    b"\n <!DOCTYPE html><html><title>Virus scan warning</title>": "is a web page",
    b"<?xml version='1.0'?><Error>AccessDenied</Error>": "is a web page",
    b"Entry not found": "is the text 'Entry not found'",
}


@pytest.mark.parametrize("content", FILES)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.onnx", "a.gguf"])
def test_files_that_have_the_name_of_a_model(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=FILES[content]):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("head", [b"\xff\xfe", b"a\0b", b"x" * 600])
def test_other_bytes_are_not_explained(head):
    assert explain(head) is None
