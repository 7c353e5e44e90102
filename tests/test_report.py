import html
import html.parser
import json
import re

import numpy as np
import pytest
from evaluation_records import make_record, make_zoo, task_embeddings

from wsrl.evaluation import Interval, evaluate_methods, query_examples
from wsrl.report import figures, write_report

HOSTILE = '</script><script>alert("x")</script><img src=http://x.test/a onerror=alert(1)>{{ 7*7 }}'


class Elements(html.parser.HTMLParser):
    """All elements of a page, and the content of its scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._script: dict[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs)

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts.append((self._script, data))
        else:
            self.text += data


def make_report(path, records, **changes):
    tasks = sorted({record.task for record in records})
    embeddings = task_embeddings(records, 1)
    methods = {"encoder": [embeddings], "chance": [np.random.default_rng(0).normal(size=embeddings.shape)]}
    results = evaluate_methods(methods, records, tasks[: len(tasks) // 2], shared_order=methods, resamples=20)
    results.seconds = {"zoo": 200.0, "encoder": 61.5}
    results.accuracy_tau, results.invariance_error = Interval(0.5, 0.4, 0.6), 2e-6
    arguments = dict(
        results=results,
        records=records,
        embeddings=embeddings,
        examples=query_examples(embeddings, records),
        curves={seed: [{"step": s, "loss": 1 / (s + 1), "map": float("nan")} for s in (0, 5)] for seed in (0, 1)},
        problems=["model-7: loss became NaN"],
        config="zoo.size: 36",
        encoder="encoder",
    )
    write_report(path, **(arguments | changes))
    return path.read_text(encoding="utf-8"), results


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("report") / "report.html", make_zoo(tasks=8))


def test_loads_nothing(report):
    page = Elements(report[0])
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        assert not {"src", "srcset", "action", "data"} & set(attributes), (tag, attributes)
        assert attributes.get("href") in (None, "tables.html")
    styles = re.search(r"<style>(.*?)</style>", report[0], re.S)
    assert styles and "url(" not in styles[1] and "@import" not in styles[1]
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy and policy.startswith("default-src 'none'")
    assert len(report[0]) < 6_000_000


def test_shows_what_was_measured(report):
    page, results = report
    text = Elements(page).text
    value = results.retrieval["encoder"]["unseen"]["cross"].metrics["precision_at_10"].value
    best = results.retrieval["encoder"]["unseen"]["any"].metrics["map"].value
    assert f"{value:.2f}" in text and f"<strong>{best:.3f}</strong>" in page
    for shown in ("4 min 22 s", "model-7: loss became NaN", "zoo.size: 36", "2.00e-06", "nDCG@10", "hubness"):
        assert shown in text
    assert text.index("Unseen tasks, every") < text.index("Tasks seen in training, every")
    assert page.count("<caption>") == page.count("<table") >= 13
    assert "✗" in page and "The worst queries" in page


def test_figures_are_valid_json(report):
    data = {
        attributes["id"]: json.loads(content)
        for attributes, content in Elements(report[0]).scripts
        if attributes.get("type") == "application/json"
    }
    assert set(data) == {"data-stages", "data-scores", "data-map", "data-curves"}
    assert sum(len(trace["customdata"]) for trace in data["data-map"]["data"]) == 96
    assert [b["label"] for b in data["data-map"]["layout"]["updatemenus"][0]["buttons"]] == [
        "Task",
        "Architecture",
        "Accuracy",
    ]


def test_hostile_names_stay_text(tmp_path):
    records = [
        make_record(i, f"{HOSTILE}{i % 4}", HOSTILE + "ab"[i // 4 % 2], id=f"{i}{HOSTILE}", run=f"r{i}", split=None)
        for i in range(32)
    ]
    page, _ = make_report(
        tmp_path / "report.html",
        records,
        problems=[HOSTILE],
        config=HOSTILE,
        curves={HOSTILE: [{"step": 0, HOSTILE: 1.0}]},
    )
    parsed = Elements(page)
    assert "{{ 7*7 }}" in parsed.text and HOSTILE in parsed.text
    assert not [tag for tag, attributes in parsed.elements if tag == "img" or "onerror" in attributes]
    assert sum(tag == "script" for tag, _ in parsed.elements) == 6
    for attributes, content in parsed.scripts:
        if attributes.get("type") == "application/json":
            figure = json.loads(content)
            assert "<img" not in json.dumps(figure)  # plotly takes < in a text for markup


def test_a_run_with_almost_nothing_in_it(tmp_path):
    records = [make_record(i, f"task-{i % 2}", run=f"r{i}") for i in range(4)]
    page, results = make_report(tmp_path / "report.html", records, examples=[], curves={}, problems=[])
    assert results.retrieval["encoder"]["unseen"]["cross"].metrics["map"].value is None
    text = Elements(page).text
    assert "no model was skipped" in text and "–" in text and "Map of the zoo" not in text


def test_map_is_the_same_again_and_samples_large_zoos(monkeypatch):
    records = make_zoo(tasks=6)
    embeddings = task_embeddings(records, 1)
    monkeypatch.setattr(figures, "POINTS", 30)
    first, second = (figures.zoo_map(embeddings, records) for _ in range(2))
    assert first is not None and second is not None
    assert first.to_json() == second.to_json()
    assert sum(len(trace.customdata) for trace in first.data) == 30
    assert figures.zoo_map(np.ones_like(embeddings), records) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (60.0, "1 min 00 s"), (605.6, "10 min 06 s")]
)
def test_durations(seconds, text):
    assert figures.duration(seconds) == text
