"""Measured costs of embedding, and plans made of them."""

import pytest
from fake_encoder import FakeEncoder, write_model

from experiments.benchmarks import embedding_cost
from experiments.benchmarks.embedding_cost import Measured, main, measure, plan, read_measured, size_class


def test_size_classes():
    assert [size_class(size) for size in (0, 999_999, 1e6, 5e8, 9e9)] == (
        ["< 1 MB", "< 1 MB", "1 to 10 MB", "100 MB to 1 GB", "1 to 10 GB"]
    )
    assert size_class(1e10) is None


def test_the_files_of_a_class_are_measured_together(models):
    (models / "broken.safetensors").write_bytes(b"broken")
    (row,) = measure(FakeEncoder(), [str(models)])
    assert (row.size, row.models, row.left_out) == ("< 1 MB", 3, 1) and row.cpu > 0
    assert row.gigabytes == pytest.approx(sum(path.stat().st_size for path in models.rglob("*.safetensors")) / 1e9)


def test_a_plan_adds_up():
    measured = {
        "< 1 MB": Measured("< 1 MB", 9, 1, 0.005, 2.0),
        "100 MB to 1 GB": Measured("100 MB to 1 GB", 2, 0, 0.8, 8.0),
    }
    rows = plan(measured, 1e6, [1, 1, 0, 1, 1], copies=0.2)
    assert [row.models for row in rows] == [2e5, 2e5, 0, 2e5, 2e5]
    assert rows[0].cpu == pytest.approx(2e5 * 0.2) and rows[0].size_bytes == pytest.approx(2e5 * 5e5)
    assert rows[1].cpu == pytest.approx(2e5 * 1e7 / 10**0.5 / 1e9 * 400)  # by the bytes of the class below
    assert rows[3].cpu == pytest.approx(2e5 * 4.0)
    assert rows[4].cpu == pytest.approx(2e5 * 1e10 / 10**0.5 / 1e9 * 10)


def test_measure_and_plan_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embedding_cost, "MADE", ())
    monkeypatch.setattr(embedding_cost, "load_encoder", FakeEncoder)
    write_model(tmp_path / "small-0.safetensors", 0)
    monkeypatch.setattr(embedding_cost.Path, "glob", lambda *_: iter([tmp_path / "small-0.safetensors"]))
    with monkeypatch.context() as context:
        context.setattr(embedding_cost, "find_sources", lambda _: embedding_cost_sources(tmp_path))
        assert main(["measure", "--out", str(tmp_path / "cost.csv")]) == 0
    assert read_measured(tmp_path / "cost.csv")["< 1 MB"].models == 1
    capsys.readouterr()
    words = ["plan", str(tmp_path / "cost.csv"), "--models", "1000", "--shares"]
    assert main([*words, "1,0,0,0,0", "--core-hour", "0.05", "--gigabyte", "0.1"]) == 0
    assert "euros" in capsys.readouterr().out
    for shares in ("1,2", "a,b,c,d,e", "0,0,0,0,0"):
        assert main([*words, shares]) == 1
        assert capsys.readouterr().err.startswith("error: --shares: ")
    assert main(["plan", str(tmp_path / "none.csv"), "--models", "1", "--shares", "1,1,1,1,1"]) == 1


def embedding_cost_sources(folder):
    from wsrl.search.sources import find_sources

    return find_sources([str(folder / "small-0.safetensors")])
