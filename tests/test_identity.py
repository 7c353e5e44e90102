"""The table of copies and parents."""

import dataclasses
import json

import numpy as np
import pytest
from small_zoo import write_zoo

from experiments.tables.identity import CHANGES, METHODS, as_pytorch, features, four_bits, main, parents_in, table
from wsrl.zoo.load import StoredCheckpoints


@pytest.fixture
def workdir(tmp_path):
    """A folder of a run with a zoo of eight networks."""
    write_zoo(tmp_path / "zoo")
    (tmp_path / "config.json").write_text(json.dumps({"zoo": {"dir": ""}, "seed": 0}))
    return tmp_path


def test_every_copy_is_found_by_its_weights(workdir):
    rows, note = table(workdir, models=8, resamples=20, seed=0)
    assert [row["query"] for row in rows] == list(CHANGES) and "8 networks" in note
    for row in rows:
        if row["query"] != "half of the weights pruned":
            assert row["weights vector"].value == 1.0, row["query"]
    permuted = next(row for row in rows if "permuted" in row["query"])
    assert permuted["raw weights"].value < 1


def test_the_command_writes_the_table(workdir, capsys):
    assert main([f"--workdir={workdir}", "--models=3", "--resamples=5"]) == 0
    assert (workdir / "tables" / "identity.csv").is_file() and (workdir / "tables" / "identity.svg").is_file()
    printed = capsys.readouterr().out
    assert all(method in printed for method in METHODS)


@pytest.mark.parametrize("arguments", [["--models=0"], ["--resamples=0"]])
def test_bad_input_ends_with_one_line(workdir, capsys, arguments):
    assert main([f"--workdir={workdir}", *arguments]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main([f"--workdir={tmp_path}"]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_children_search_for_the_network_that_they_started_from(workdir):
    records = write_zoo(workdir / "other")
    child = dataclasses.replace(records[3], id="child", parent=records[1].id, extra={"run": "child"})
    copy = dataclasses.replace(records[3], id="copy", parent=records[1].id, extra={"run": "copy", "copy": "prune"})
    assert parents_in([*records, child, copy], records[:2]) == [(child, 1)]


def test_four_bits_leave_fifteen_levels_a_block():
    matrix = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    rounded = four_bits({"w": matrix, "b": matrix[0]})
    assert len(np.unique(rounded["w"].ravel()[:32])) <= 15
    assert np.abs(rounded["w"] - matrix).max() <= np.abs(matrix).max() / 14 + 1e-6
    np.testing.assert_array_equal(rounded["b"], matrix[0])


def test_the_layout_of_pytorch_changes_no_vector(workdir):
    records = write_zoo(workdir / "more")
    own = StoredCheckpoints(workdir / "more", records)[0]
    tensors = as_pytorch({name: np.asarray(t) for name, t in own.tensors.items()})
    assert any(name.endswith(".weight") for name in tensors)
    vectors = features([own, dataclasses.replace(own, tensors=tensors)], 2)["weights vector"]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
