import pytest

from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.readers.not_weights import explain

FILES = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n": "is a pointer of git-lfs",
    b"\n <!DOCTYPE html><html><title>Virus scan warning</title>": "is a web page",
    b"<?xml version='1.0'?><Error>AccessDenied</Error>": "is a web page",
    b"\x89PNG\r\n\x1a\n\0": "is an image",
    b"%PDF-1.7\n%\xe2\xe3": "is a PDF document",
    b"lCRF@\0": "is a model of CRFsuite",
    b"tree\nversion=v4\nnum_class=1": "is a LightGBM model",
    b'{"learner": {"attributes": {}}, "version": [2, 0, 0]}': "is an XGBoost model",
    b'{"version": "1.0", "added_tokens": []}': "is a tokenizer",
    b"\x04\x22\x4d\x18@@": "is a file that is compressed by LZ4",
    b"lmgg\n\0\0\0": "is a model of ggml's old format",
    b"\0\0\0\0ET12": "is a program of ExecuTorch",
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


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("meta.json", "config.cfg", "tokenizer"), "is a spaCy model"),
        (("tokenizer.json", "config.json"), "holds a tokenizer and no weights"),
        (("config.json",), "holds a configuration and no weights"),
        (("notes.txt",), "the folder holds no checkpoint"),
    ],
)
def test_folders_without_weights(tmp_path, names, what):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=what):
        open_checkpoint(tmp_path)


PICKLES = {
    "is a pickle of scikit-learn": b"csklearn.tree._classes\nDecisionTreeClassifier\n)R.",
    "is a pickle of joblib": b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)R.",
    "is the state of an optimizer": b"}(X\x05\0\0\0state}X\x0c\0\0\0param_groups]u.",
}


@pytest.mark.parametrize("reason", PICKLES)
def test_pickles_of_other_kinds(tmp_path, reason):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + PICKLES[reason])
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(tmp_path / "a.pkl")
