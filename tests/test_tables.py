import csv
import html.parser
import json
import math
import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from wsrl.errors import InputError
from wsrl.evaluation.interval import Interval
from wsrl.report.table_figures import bar_figure, line_figure
from wsrl.report.tables import NOTHING, print_table, read_tables, readable, write_table

HOSTILE = '</td><script>alert("x")</script>,{{ 7*7 }}\n"'
ROWS = [
    {"method": "wsrl", "P@10": Interval(0.81234, 0.78, 0.84), "models": 2210, "steps": 10},
    {"method": "metadata", "P@10": Interval(0.17, None, None), "models": 2210, "steps": 100},
    {"method": HOSTILE, "P@10": 0.5, "steps": 1000, "seconds": math.nan},
]


class Page(html.parser.HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_csv_holds_all_digits_and_three_columns_an_interval(tmp_path):
    write_table(tmp_path, "scores", "Scores", "A note.", ROWS, None)
    with open(tmp_path / "tables" / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["method", "P@10", "P@10_low", "P@10_high", "models", "steps", "seconds"]
    assert list(lines[0].values()) == ["wsrl", "0.81234", "0.78", "0.84", "2210", "10", ""]
    assert list(lines[2].values()) == [HOSTILE, "0.5", "", "", "", "1000", ""]
    assert json.loads((tmp_path / "tables" / "scores.json").read_bytes()) == {"title": "Scores", "note": "A note."}


numbers = st.one_of(st.none(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False))
intervals = st.builds(Interval, numbers, numbers, numbers)
labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=9)


@settings(max_examples=15)
@given(st.lists(st.fixed_dictionaries({"a": labels.map("x{}".format), "b": intervals, "c": numbers}), min_size=1))
def test_what_is_written_is_read_again(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder, "t", "T", "N", rows, None)
    (table,) = read_tables(folder)
    assert table.rows == rows and (table.name, table.title, table.note, table.svg) == ("t", "T", "N", b"")


@pytest.mark.parametrize("texts", [["007", "12"], ["nan", "1"], ["true", "false"], ["1e5 ", ""]])
def test_text_that_looks_like_numbers_stays_text(tmp_path, texts):
    write_table(tmp_path, "t", "T", "N", [{"a": text} for text in texts], None)
    assert [row["a"] for row in read_tables(tmp_path)[0].rows] == texts


def test_page_shows_every_table_and_loads_nothing(tmp_path):
    figure = bar_figure(ROWS, "method", ["P@10"], "P@10")
    write_table(tmp_path, "scores", HOSTILE, HOSTILE, ROWS, figure)
    write_table(tmp_path, "other", "Other table", "About it.", [{"n": 1_000_000}], None)
    page = Page((tmp_path / "tables.html").read_text())
    for shown in (HOSTILE, "Other table", "About it.", "0.812 [0.780, 0.840]", "1,000,000", "2,210", NOTHING):
        assert shown in page.text
    assert page.text.index("About it.") < page.text.index("0.812")  # in the order of the names
    assert not [tag for tag, _ in page.elements if tag in {"script", "link", "iframe", "object", "embed", "base"}]
    sources = [attributes["src"] for _, attributes in page.elements if "src" in attributes]
    assert len(sources) == 1 and sources[0].startswith("data:image/svg+xml;base64,")
    assert all(a["href"].startswith("#") for _, a in page.elements if "href" in a)
    write_table(tmp_path, "scores", "Scores", "N", ROWS, None)  # again, without a plot
    assert "<img" not in (tmp_path / "tables.html").read_text()
    assert sorted(f.name for f in (tmp_path / "tables").iterdir()) == [
        "other.csv",
        "other.json",
        "scores.csv",
        "scores.json",
    ]


def test_the_same_rows_make_the_same_bytes(tmp_path):
    for name in "ab":
        figure = line_figure(ROWS, "steps", "P@10", by="method", log="x")
        write_table(tmp_path / name, "scores", "S", "N", ROWS, figure)
    files = [sorted(f for f in (tmp_path / name).rglob("*") if f.is_file()) for name in "ab"]
    assert len(files[0]) == 4
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", files[0][2].read_text())


def test_figures_draw_what_they_are_given():
    bars = bar_figure(ROWS, "method", ["P@10", "models"], "score").axes[0]
    assert [round(patch.get_width(), 5) for patch in bars.patches] == [0.81234, 0.17, 0.5, 2210, 2210]
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["P@10", "models"]
    assert bars.get_ylim()[0] > bars.get_ylim()[1]  # the first row on top
    rows = [{"n": n, "y": n / 7, "kind": kind} for n in (100, 1, 10) for kind in "ab"]
    lines = line_figure(rows, "n", "y", by="kind", log="xy").axes[0]
    assert [line.get_label() for line in lines.lines] == ["a", "b"]
    np.testing.assert_allclose(lines.lines[0].get_xydata(), [[1, 1 / 7], [10, 10 / 7], [100, 100 / 7]])
    assert lines.get_xscale() == lines.get_yscale() == "log"


def test_an_interval_that_misses_its_value_is_drawn_as_it_is():
    rows = [{"method": "a", "P@10": Interval(0.9, 0.5, 0.8)}]
    (intervals,) = bar_figure(rows, "method", ["P@10"], "P@10").axes[0].collections
    np.testing.assert_allclose(intervals.get_segments()[0], [[0.5, 0], [0.8, 0]])


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (0.81234, "0.812"), (0.9996, "1.000"), (123.4, "123"), (1234567.8, "1,234,568"), (2210, "2,210"), (0.0, "0.00"),
        (2.5e-7, "2.50e-07"), (None, NOTHING), (math.inf, NOTHING), ("x", "x"), (np.float32(0.5), "0.500"),
        (Interval(12.345, 1, None), f"12.3 [1, {NOTHING}]"),
        (Interval(None, None, None), NOTHING),
    ],
)  # fmt: skip
def test_numbers_are_rounded_for_reading(cell, text):
    assert readable(cell) == text


def test_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_table([{"method": "a[b]", "P@10": ROWS[0]["P@10"]}, {"models": 2210}])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["method", "P@10", "models"],
        ["a[b]", "0.812", "[0.780,", "0.840]", NOTHING],
        [NOTHING, NOTHING, "2,210"],
    ]


def test_refuses_bad_names_no_rows_and_damaged_tables(tmp_path):
    for name, rows in (("../x", ROWS), ("", ROWS), ("x", [])):
        with pytest.raises(ValueError, match="plain name and a row"):
            write_table(tmp_path, name, "T", "N", rows, None)
    assert not list(tmp_path.iterdir())
    write_table(tmp_path, "good", "T", "N", ROWS, None)
    before = (tmp_path / "tables.html").read_bytes()
    for content in (b"{", b"[]", b"{}"):
        (tmp_path / "tables" / "bad.json").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.json: damaged table"):
            write_table(tmp_path, "good", "T", "N", ROWS, None)
    assert (tmp_path / "tables.html").read_bytes() == before
