"""Says what a file or folder is that holds no network to read: a pointer, a web page, a model of another kind.

Signatures are those of the formats' own descriptions or of the files that their libraries write.
"""

from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/"  # https://github.com/git-lfs/git-lfs, docs/spec.md
PAGES = (b"<!doctype html", b"<html", b"<?xml")
SHORT = 512  # bytes of an answer that is shown
SHOWN = 60  # characters
EXPORT = "export the network as safetensors or ONNX"
SOURCE = "give the model that it was made from"
NO_NETWORK = "only networks are searched; leave it out"
UNPACK = "load it with the library that wrote it and save the arrays as .npz"

# (place, bytes, what it is, what to do)
MAGIC = (
    (0, b"lCRF", "a model of CRFsuite", NO_NETWORK),
    (0, b"CBM1", "a CatBoost model", NO_NETWORK),
    (0, b"binf", "an XGBoost model", NO_NETWORK),
    (0, b"{L\0\0\0\0\0\0", "an XGBoost model", NO_NETWORK),
    (0, b"tree\nversion=", "a LightGBM model", NO_NETWORK),
    (0, b"\xba\x16\x4f\x2f", "a fastText model", NO_NETWORK),
    (0, b"\x04\x22\x4d\x18", "a file that is compressed by LZ4, as joblib writes pickles", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a file that is compressed by Zstandard", "unpack it first"),
    (0, b"\xfd7zXZ\0", "a file that is compressed by XZ", "unpack it first"),
    (0, b"BZh", "a file that is compressed by bzip2", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (0, b"Rar!", "a RAR archive", "unpack it first"),
    (0, b"ZF\0", "a pickle that is compressed by an old joblib", UNPACK),
    (0, b"\x78\x9c\x80", "a pickle that is compressed by joblib", UNPACK),
    (0, b"\x93NUMPY", "a single NumPy array", "save the network's arrays under their names as .npz"),
    (0, b"lmgg", "a model of ggml's old format", "convert it to GGUF, or give the model before it was converted"),
    (0, b"fmgg", "a model of ggml's old format", "convert it to GGUF, or give the model before it was converted"),
    (0, b"tjgg", "a model of ggml's old format", "convert it to GGUF, or give the model before it was converted"),
    (0, b"\x12\x01\0\0\0\0\0\0", "parameters of MXNet", EXPORT),
    (0, b"7767517\n", "a graph of ncnn", SOURCE),
    (4, b"ET12", "a program of ExecuTorch", SOURCE),
    (4, b"PTMF", "a model of PyTorch Mobile in a FlatBuffer", SOURCE),
    (4, b"MNN", "a model of MNN", SOURCE),
    (0, b"ftrt", "an engine of TensorRT", SOURCE),
    (0, b"ptrt", "an engine of TensorRT", SOURCE),
    (0, b"\x80\x02ctokenizers", "a tokenizer", "give the file of the model's weights"),
    (0, b"\x7fELF", "a program", NO_NETWORK),
    (0, b"MZ", "a program", NO_NETWORK),
    (0, b"%PDF", "a PDF document", NO_NETWORK),
    (0, b"\x89PNG", "an image", NO_NETWORK),
    (0, b"\xff\xd8\xff", "an image", NO_NETWORK),
    (0, b"PAR1", "a table in Parquet", NO_NETWORK),
    (0, b"ARROW1", "a table in Arrow", NO_NETWORK),
    (0, b"SQLite format 3\0", "an SQLite database", NO_NETWORK),
    (0, b"MATLAB 5.0", "variables of MATLAB", "save the network's arrays as .npz"),
    (0, b"\n\x0e\n\x05<unk>", "a tokenizer of SentencePiece", "give the file of the model's weights"),
    (0, b"\n\x0b\n\x05<pad>", "a tokenizer of SentencePiece", "give the file of the model's weights"),
    (0, b"\x0a\x1b\x0a\x05<unk>", "a tokenizer of SentencePiece", "give the file of the model's weights"),
)
# Words of which a JSON file has all near its beginning.
OBJECTS = (
    ((b'"learner"', b'"version"'), "an XGBoost model", NO_NETWORK),
    ((b'"learner"', b'"learner_model_param"'), "an XGBoost model", NO_NETWORK),
    ((b'"added_tokens"', b'"version"'), "a tokenizer", "give the file of the model's weights"),
    ((b'"tokenizer_class"',), "the settings of a tokenizer", "give the file of the model's weights"),
    ((b'"model_type"',), "the configuration of a model", "give its folder or its file of weights"),
    ((b'"class_name"', b'"config"'), "the configuration of a Keras model", "give the file with its weights"),
    ((b'"oblivious_trees"',), "a CatBoost model", NO_NETWORK),
)
# Files that a folder has, all of them.
FOLDERS = (
    (("meta.json", "config.cfg"), "is a spaCy model", NO_NETWORK),
    (("MLmodel",), "is a model of MLflow", "give the file of weights in its folder `data`"),
    (("tokenizer.json",), "holds a tokenizer and no weights", "download the files of weights too"),
    (("tokenizer_config.json",), "holds a tokenizer and no weights", "download the files of weights too"),
    (("config.json",), "holds a configuration and no weights", "download the files of weights too"),
)


def explain(head: bytes) -> tuple[str, str] | None:
    """Returns what a file is and what to do about it; None if nothing is known.

    Args:
      head: how it begins.
    """
    if head.startswith(POINTER):
        return "is a pointer of git-lfs, not the file itself", "run `git lfs pull` in its repository"
    if head.lstrip()[:64].lower().startswith(PAGES):
        return "is a web page, not a model", "download it again; its address may ask for a login or a confirmation"
    for place, magic, what, fix in MAGIC:
        if head[place : place + len(magic)] == magic:
            return f"is {what}, not a network that can be read", fix
    if head.lstrip()[:1] == b"{":
        for words, what, fix in OBJECTS:
            if all(word in head for word in words):
                return f"is {what}, not a network that can be read", fix
    try:
        text = str(head, "utf-8").strip()
    except UnicodeDecodeError:
        return None
    if len(head) < SHORT and text.isprintable() and text:
        return f"is the text {text[:SHOWN]!r}, not a model", "download it again"
    return None


def explain_folder(path: Path) -> tuple[str, str] | None:
    """Returns what a folder is and what to do about it; None if nothing is known."""
    for names, what, fix in FOLDERS:
        if all((path / name).is_file() for name in names):
            return what, fix
    return None
