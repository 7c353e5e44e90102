import os
from pathlib import Path

import pytest

from experiments.proofs.samples import write
from wsrl.checkpoint import CheckpointError
from wsrl.readers.json_files import LIMIT, parse_json_object, read_json_object


def test_objects(tmp_path):
    assert read_json_object(write(tmp_path / "a.json", b'{"a": [1, null]}')) == {"a": [1, None]}


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b"{", b"\xff\xfe", b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}'])
def test_what_is_no_object(text):
    with pytest.raises(CheckpointError, match="a: its header "):
        parse_json_object(text, Path("a"), "its header")


@pytest.mark.parametrize("text", [b"[" * 10**5, b'{"a":' * 10**5, b'{"a":' + b"9" * 10**5 + b"}"])
def test_what_would_take_for_ever(text):
    with pytest.raises(CheckpointError):
        parse_json_object(text, Path("a"), "its header")


def test_long_files_are_not_read(tmp_path):
    path = write(tmp_path / "a.json", b"{")
    os.truncate(path, LIMIT + 1)
    with pytest.raises(CheckpointError, match="more than"):
        read_json_object(path)
    with pytest.raises(CheckpointError, match="more than"):
        parse_json_object(bytes(LIMIT + 1), path, "its header")
