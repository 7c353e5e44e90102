import subprocess

import pytest

from experiments.benchmarks import indexing
from wsrl.readers import open_checkpoint
from wsrl.search.index import Index


def test_models_are_of_three_formats(tmp_path):
    size = indexing.write_models(tmp_path / "models", 6)
    files = sorted((tmp_path / "models").iterdir())
    assert [path.suffix for path in files] == [".safetensors", ".npz", ".msgpack"] * 2
    assert size == sum(path.stat().st_size for path in files)
    assert all(open_checkpoint(path).tensors for path in files)


def test_lines_are_of_commands_that_succeed(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(indexing, "cost", lambda *words: called.append(words) or indexing.Cost(2.0, 1.0, 100.0))
    monkeypatch.setattr(indexing, "latency", lambda index: (0.001, 0.002))
    table = list(indexing.rows_of_table(3, tmp_path))
    assert [row[0] for row in table[1:]] == [
        *("read and hash", "index", "index again", "search, cold", "search by weights, cold", "search, in a process")
    ]
    assert table[2][1:4] == ["2.00", "1.00", "2"] and len({len(row) for row in table}) == 1
    (tmp_path / "random").mkdir()
    without = list(indexing.rows_of_table(3, tmp_path / "random", random=True))
    assert [row[0] for row in without[1:]] == [row[0] for row in table[1:] if row[0] != "index"]
    assert len(Index.open(tmp_path / "random" / "zoo.index")) == 3
    assert called[1] == called[2] and called[1][:3] == ("-m", "wsrl", "index")


def test_a_process_is_measured():
    taken = indexing.cost("-c", "sum(range(10**6))")
    assert taken.cpu > 0 and taken.seconds > 0 and 1 < taken.peak < 1000
    with pytest.raises(subprocess.CalledProcessError):
        indexing.cost("-c", "raise SystemExit(3)")
