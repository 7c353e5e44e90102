# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from random import Random

import numpy as np
import pytest

from experiments.proofs import valid_files
from wsrl.checkpoint import CheckpointError, unexpected


def test_a_sample_of_valid_files(tmp_path, capsys):
    assert valid_files.main(["--files=40", "--seed=5", f"--keep={tmp_path}"]) == 0
    assert "40 files, 0 failures" in capsys.readouterr().out


def test_the_files_differ(tmp_path):
    shapes = {array.shape for seed in range(40) for array in valid_files.random_tensors(Random(seed)).values()}
    assert {0, 1, 2, 4} <= {len(shape) for shape in shapes} and any(0 in shape for shape in shapes)


def test_what_nobody_thought_of_is_a_failure(tmp_path, monkeypatch, capsys):
    def read(path):
        raise KeyError("x")

    monkeypatch.setattr(valid_files, "open_checkpoint", read)
    assert valid_files.main(["--files=1", f"--keep={tmp_path}"]) == 1
    assert "KeyError" in capsys.readouterr().err and list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (CheckpointError("a", "holds no weights", "give another"), False),
        (CheckpointError("a", "two\nlines", "mend"), True),
        (unexpected("a", ValueError("zero-size array")), True),
    ],
)
def test_errors_that_hide_others_are_told_apart(error, failed, monkeypatch, tmp_path):
    def read(path):
        raise error

    class Nothing:
        def embed(self, sources):
            return iter(())

        def search(self, source, k):
            return []

    monkeypatch.setattr(valid_files, "open_checkpoint", read)
    assert bool(valid_files.attempt(tmp_path, Nothing(), Nothing())) is failed


def test_tensors_without_entries_are_passed_over(tmp_path):
    import wsrl

    tensors = {**valid_files.NETWORKS[3], "empty.weight": np.zeros((0, 4), np.float32), "none": np.zeros(0, np.float32)}
    rows = []
    for name, arrays in (("a", tensors), ("b", valid_files.NETWORKS[3])):
        (tmp_path / name).mkdir()
        path = valid_files._safetensors(tmp_path / name, arrays)
        rows += wsrl.load_encoder().embed([str(path)])
    np.testing.assert_allclose(rows[0].weights, rows[1].weights, atol=1e-6)
