"""Faults of the machine end in one line, and leave an index that opens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_encoder import FakeEncoder, write_model

from wsrl.cli.main import main
from wsrl.encoder import checkpoint_encoder
from wsrl.files import write_atomically
from wsrl.search import commit
from wsrl.search.index import Index
from wsrl.search.repair import find_damage

INDEX = """
import sys
sys.path[:0] = [{tests!r}]
from fake_encoder import FakeEncoder
from wsrl.cli.main import main
from wsrl.encoder import checkpoint_encoder

checkpoint_encoder.load_encoder = lambda directory=None: FakeEncoder()
sys.exit(main({words!r}))
"""


@pytest.fixture
def indexed(tmp_path, monkeypatch, capsys):
    """A working folder with an index of two models and a third checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint_encoder, "load_encoder", lambda directory=None: FakeEncoder())
    for seed in range(2):
        write_model(Path(f"models/{seed}.safetensors"), seed)
    assert main(["index", "models", "--out", "zoo.index"]) == 0
    write_model(Path("models/2.safetensors"), 2)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (28, "error: {file}: No space left on device; make room, then give the same command again\n"),
        (30, "error: {file}: Read-only file system; allow writing there, or name another place\n"),
        (5, "error: {file}: Input/output error; name another file, or check the disk\n"),
    ],
)
@pytest.mark.parametrize("owner", ["write_array", "write_database", "write_atomically"])
def test_what_cannot_be_written_is_told_and_harms_nothing(indexed, capsys, monkeypatch, number, line, owner):
    before = Index.open("zoo.index").ids

    def failing(*arguments):
        raise OSError(number, os.strerror(number), "zoo.index/some")

    commands = [["update"], ["add", "models/2.safetensors"], ["remove", before[0]], ["annotate", before[0], "a=b"]]
    with monkeypatch.context() as broken:
        broken.setattr(commit, owner, failing)
        for words in commands[:2] if owner == "write_array" else commands:  # the others write no vectors
            assert main([*words, "--index", "zoo.index"]) == 1
            assert capsys.readouterr() == ("", line.format(file="zoo.index/some"))
            assert Index.open("zoo.index").ids == before and find_damage(Path("zoo.index")) == []
    index = Index.open("zoo.index")
    index.update(FakeEncoder())
    assert len(index) == 3 and find_damage(index.directory) == []


def test_a_file_that_cannot_take_its_place_leaves_nothing(tmp_path):
    (tmp_path / "tree.svg").mkdir()
    with pytest.raises(OSError) as told:
        write_atomically(tmp_path / "tree.svg", b"x")
    assert told.value.filename == str(tmp_path / "tree.svg") and told.value.filename2 is None
    assert [path.name for path in tmp_path.iterdir()] == ["tree.svg"]


def test_a_disk_that_fills_up(indexed, capsys):
    """The kernel refuses to write beyond some bytes."""
    words = ["index", "models", "--out", "zoo.index"]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    code = limit + INDEX.format(tests=str(Path(__file__).parent), words=words)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "File too large; make room, then give the same command again" in done.stderr
    assert len(Index.open("zoo.index")) == 2 and find_damage(Path("zoo.index")) == []
    assert main(words) == 0 and len(Index.open("zoo.index")) == 3


def test_a_folder_that_cannot_be_made(indexed, capsys, monkeypatch):
    def refusing(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refusing)
    assert main(["index", "models", "--out", "closed/new.index"]) == 1
    line = "error: closed/new.index: Permission denied; allow writing there, or name another place\n"
    assert capsys.readouterr() == ("", line)


def test_an_index_that_cannot_be_written_is_searched(indexed, capsys, monkeypatch):
    """Reading needs no lock and writes nothing."""
    before = {path.name: path.stat().st_mtime_ns for path in Path("zoo.index").iterdir()}
    monkeypatch.setattr(os, "replace", None)
    assert main(["search", "models/0.safetensors", "--index", "zoo.index"]) == 0
    assert main(["info", "--index", "zoo.index"]) == 0 and main(["verify", "--index", "zoo.index"]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in Path("zoo.index").iterdir()} == before


def test_a_huge_file_of_nothing_is_one_line(indexed, capsys):
    with open("models/huge.safetensors", "wb") as file:
        file.truncate(20 * 10**9)  # takes no room
    assert main(["update", "--index", "zoo.index"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("left out: models/huge.safetensors: ") and told.count("\n") == 1


def test_many_tiny_files_that_are_no_checkpoints(indexed, capsys):
    folder = Path("models/tiny")
    folder.mkdir()
    for number in range(2000):
        (folder / f"{number}.log").write_bytes(b"x")
    for number in range(150):
        (folder / f"{number}.pt").write_bytes(b"x")
    assert main(["update", "--index", "zoo.index", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("left out: models/tiny/0.pt: ") and err.count("\n") == 101
    assert err.endswith("left out: 50 more, see `problems` of --json\n")
    assert len(json.loads(out)["problems"]) == 150 and len(Index.open("zoo.index")) == 3
