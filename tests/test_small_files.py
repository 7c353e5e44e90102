import sys

import pytest

from experiments.benchmarks import small_files


def test_files_are_embedded_beside_another_program(monkeypatch, capfd):
    monkeypatch.setattr(small_files, "ROUNDS", 1)
    small_files.main(["--files", "1,2", "--other", f"{sys.executable} -c pass"])
    header, *rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert header[0] == "files" and [row[0] for row in rows] == ["1", "2"]
    for _, speed, _, floor, _, gnn, share, other, ratio in rows:
        assert 0 < float(floor) < 100 and 0 < float(speed) < float(other) and float(ratio) < 1
        assert float(share) == pytest.approx(float(speed) / float(gnn), abs=0.1)
