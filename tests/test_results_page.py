"""The page of results and the README's table are what the CSV files give."""

import json
from pathlib import Path

import pytest

from experiments.results_page import (
    END,
    FOLDER,
    PAGE,
    README,
    ROOT,
    START,
    main,
    read_entries,
    readable,
    results_page,
)
from wsrl.errors import InputError

TABLE = "method,P@1,P@1_low,P@1_high,models\nours,0.91234,0.9,0.925,12345\nrandom,,,,7\n"
ENTRY = {
    "file": "one.csv",
    "title": "One",
    "reading": "Higher is better.",
    "command": "python -m experiments.main --config=configs/tiny.py",
    "commit": "0123abc",
    "machine": "two CPU cores",
    "readme": ["ours"],
}


def write_project(root: Path, entry: dict, readme: str = f"before\n{START}\nold\n{END}\nafter\n") -> None:
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "one.csv").write_text(TABLE)
    (root / FOLDER / "tables.json").write_text(json.dumps([entry]))
    (root / README).write_text(readme)


def test_committed_pages_are_what_the_csv_files_give(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_every_csv_is_listed_once():
    listed = [entry.file for entry in read_entries(ROOT)]
    assert sorted(listed) == sorted(path.name for path in (ROOT / FOLDER).glob("*.csv"))


def test_every_table_says_how_it_was_made():
    for entry in read_entries(ROOT):
        assert all((entry.title, entry.reading, entry.command, entry.commit, entry.machine)), entry.file


def test_page_and_readme_of_a_small_project(tmp_path):
    write_project(tmp_path, ENTRY)
    assert main([], tmp_path) == 0
    page = (tmp_path / PAGE).read_text()
    assert "## One\n\nHigher is better.\n\n| method | P@1 | models |\n| --- | ---: | ---: |\n" in page
    assert "| ours | 0.912 [0.9, 0.925] | 12,345 |\n| random | – | 7 |\n" in page
    assert "Made at 0123abc on two CPU cores" in page and f"```sh\n{ENTRY['command']}\n```" in page
    readme = (tmp_path / README).read_text()
    assert readme.startswith(f"before\n{START}\n\n| method | P@1 | models |\n") and readme.endswith(f"{END}\nafter\n")
    assert "| ours | 0.912 [0.9, 0.925] | 12,345 |" in readme and "random" not in readme and "old" not in readme
    assert main(["--check"], tmp_path) == 0


def test_the_readme_may_show_few_columns(tmp_path):
    write_project(tmp_path, ENTRY | {"readme_columns": ["method", "models"]})
    assert main([], tmp_path) == 0
    assert "| method | models |\n| --- | ---: |\n| ours | 12,345 |\n" in (tmp_path / README).read_text()


@pytest.mark.parametrize("path", [PAGE, README])
def test_check_fails_for_a_page_that_was_edited(path, tmp_path, capsys):
    write_project(tmp_path, ENTRY)
    assert main([], tmp_path) == 0
    edited = (tmp_path / path).read_text().replace("0.912", "0.913")
    (tmp_path / path).write_text(edited)
    assert main(["--check"], tmp_path) == 1
    assert f"{path}: differs" in capsys.readouterr().err
    assert (tmp_path / path).read_text() == edited, "a check writes nothing"


def test_check_fails_without_a_page(tmp_path):
    write_project(tmp_path, ENTRY)
    assert main(["--check"], tmp_path) == 1
    assert not (tmp_path / PAGE).exists()


@pytest.mark.parametrize(
    ("entry", "readme", "message"),
    [
        (ENTRY, "no marks", "does not mark"),
        (ENTRY | {"readme": ["theirs"]}, f"{START}{END}", "no row 'theirs'"),
        (ENTRY | {"readme_columns": ["speed"]}, f"{START}{END}", "no column 'speed'"),
        (ENTRY | {"file": "two.csv"}, f"{START}{END}", "two.csv: cannot be read"),
        (ENTRY | {"nonsense": 1}, f"{START}{END}", "no list of tables"),
    ],
)
def test_what_is_wrong_ends_with_one_line(entry, readme, message, tmp_path, capsys):
    write_project(tmp_path, entry, readme)
    assert main([], tmp_path) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_csv_without_rows_is_refused(tmp_path):
    write_project(tmp_path, ENTRY)
    (tmp_path / FOLDER / "one.csv").write_text("method,P@1\n")
    with pytest.raises(InputError, match="has no row"):
        results_page(tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "–"),
        ("0.92", "0.92"),
        ("1.000", "1.00"),
        ("0.0001234", "0.000123"),
        ("-0.98765", "-0.988"),
        ("12345.678", "12,346"),
        ("1000000", "1,000,000"),
        ("7.9123e-07", "7.91e-07"),
        ("wsrl, 0.5", "wsrl, 0.5"),
    ],
)
def test_numbers_are_rounded_for_reading(text, shown):
    assert readable(text) == shown
