"""The table of duplicates, and the zoo of copies that it is made of."""

import json

import pytest
from small_zoo import write_zoo

from experiments.tables.copies import COPIES, DISTRACTORS
from experiments.tables.duplicates import main, pairs, table


@pytest.fixture
def workdir(tmp_path):
    """A folder of a run with a zoo of eight networks."""
    write_zoo(tmp_path / "zoo")
    (tmp_path / "config.json").write_text(json.dumps({"zoo": {"dir": ""}, "seed": 0}))
    return tmp_path


def test_copies_are_found_and_other_networks_are_not(workdir):
    rows, note = table(workdir, models=2, seed=0)
    found = {str(row["form"]): row["found"] for row in rows}
    assert list(found) == [*COPIES, *DISTRACTORS] and "2 networks" in note
    for form in ("copied", "renamed, in another order", "npz", "two shards", "float16", "permuted"):
        assert found[form] == 1.0, form
    assert all(found[form] == 0.0 for form in DISTRACTORS)


def test_pairs_of_a_label():
    assert pairs({"a": "x", "b": "x", "c": "y", "d": "x"}) == {
        frozenset(pair) for pair in (("a", "b"), ("a", "d"), ("b", "d"))
    }


@pytest.mark.parametrize("arguments", [["--models=0"]])
def test_bad_input_ends_with_one_line(workdir, capsys, arguments):
    assert main([f"--workdir={workdir}", *arguments]) == 1
    assert capsys.readouterr().err.count("\n") == 1
