"""The benchmark of pairs, on a small network."""

from functools import partial

import pytest

from experiments.benchmarks import pairs, streaming


@pytest.mark.parametrize(
    ("pair", "kind"),
    [("float16", "same_weights"), ("tuned", "fine_tuned"), ("permuted", "same_symmetry"), ("independent", "unrelated")],
)
def test_the_second_file_is_what_it_is_said_to_be(pair, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "bert", partial(streaming.bert, 1, 192, 100))
    (path,) = streaming.write_model("bert-base", tmp_path)
    other = pairs.write_other(pair, tmp_path / "model.safetensors", tmp_path / "other")
    assert pairs.measure([path, str(other)])[0] == kind
