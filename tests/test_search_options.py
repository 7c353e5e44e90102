"""Several queries, counter-examples, conditions, groups, order."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from fake_encoder import FakeEncoder, write_model

from wsrl.cli.main import main
from wsrl.errors import InputError
from wsrl.search import near_groups, query_rows, searcher
from wsrl.search.conditions import Condition
from wsrl.search.facts import Facts
from wsrl.search.index import Index


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Sixty models of two architectures, with notes on some; `m5` is a copy of `m4`."""
    folder = tmp_path_factory.mktemp("options")
    for seed in range(60):
        kind = f"kind {seed % 2}"
        write_model(folder / "models" / f"m{seed:02}.safetensors", 4 if seed == 5 else seed, architecture=kind)
        os.utime(folder / "models" / f"m{seed:02}.safetensors", (time.time(), 1_760_000_000 + seed * 86_400))
    built = Index.build(FakeEncoder(), folder / "models", folder / "index")
    for place, name in enumerate(built.ids[:12]):
        built.annotate(name, {"license": ("mit", "apache-2.0", "MIT")[place % 3], "epochs": str(place)})
    return Index.open(folder / "index")


@pytest.fixture
def vectors(index):
    return np.stack([index.get(name).weights for name in index.ids])


def numbers(hits) -> list[int]:
    return [int(Path(hit.id).stem[1:]) for hit in hits]


def test_several_queries_are_asked_by_their_mean(index, vectors):
    hits = index.search([index.ids[0], index.ids[7]], 60, "weights")
    expected = (vectors @ vectors[[0, 7]].T).mean(1)
    assert numbers(hits) == np.argsort(-expected, kind="stable").tolist()
    assert [hit.score for hit in hits] == pytest.approx(np.clip(np.sort(expected)[::-1], 0, 1), abs=1e-6)
    assert sorted(numbers(hit for hit in hits if hit.same_weights)) == [0, 7]
    one, other = (index.search(name, 60, "function") for name in (index.ids[0], index.ids[7]))
    both = {hit.id: hit.score for hit in index.search([index.ids[0], index.ids[7]], 60, "function")}
    scores = [{hit.id: hit.score for hit in hits} for hits in (one, other)]
    high = [name for name in both if min(own[name] for own in scores) > 0 and max(own[name] for own in scores) < 1]
    assert high and all(both[name] == pytest.approx((scores[0][name] + scores[1][name]) / 2, abs=1e-5) for name in high)


@pytest.mark.parametrize("by", ["weights", "function"])
def test_what_is_as_near_to_a_counter_example_is_left_out(index, by):
    query, counter = index.ids[0], [index.ids[3], index.ids[8]]
    wanted = {hit.id: hit.score for hit in index.search(query, 60, by)}
    against = [{hit.id: hit.score for hit in index.search(name, 60, by)} for name in counter]
    hits = index.search(query, 60, by, against=counter)
    assert 0 < len(hits) < 58 and not {hit.id for hit in hits} & set(counter)
    assert {hit.id: hit.score for hit in hits} == pytest.approx({hit.id: wanted[hit.id] for hit in hits}, abs=1e-6)
    for name, score in wanted.items():
        if score > 0:
            nearest = max(own.get(name, 0) for own in against)
            assert (name in {hit.id for hit in hits}) == (score > nearest)
    assert index.search(query, 60, by, against=query) == []


def test_conditions_filter_without_changing_scores(index):
    everything = {hit.id: hit.score for hit in index.search(index.ids[0], 60)}
    for where, expected in (
        (["license=mit"], {0, 2, 3, 5, 6, 8, 9, 11}),
        (["license!=mit"], {1, 4, 7, 10} | set(range(12, 60))),
        (["licence=mit", "epochs>=6"], {6, 8, 9, 11}),
        (["id=*m0?.safetensors", "architecture=kind 1"], {1, 3, 5, 7, 9}),
        (["modified<2025-10-14"], {0, 1, 2, 3, 4}),
        (["params>0.02k", "parameters<=28"], set(range(60))),
        (["size>1GB"], set()),
        (["age<1w"], set()),
    ):
        hits = index.search(index.ids[0], 60, where=where)
        assert set(numbers(hits)) == expected, where
        assert all(hit.score == pytest.approx(everything[hit.id], abs=1e-6) for hit in hits)
        assert index.explanation.among == len(expected)


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("parameters>6B", 6_000_000_001, True), ("parameters>6B", 6_000_000_000, False),
        ("parameters<=7.5M", 7_500_000, True), ("parameters = 1k", 1000, True), ("size>=1GiB", 2**30, True),
        ("size<1GB", 10**9, False), ("size=3 kB", 3000, True), ("predicted_accuracy>=90%", 0.9, True),
        ("predicted_accuracy<0.5", None, False), ("parameters!=5", None, True), ("age>30d", 31 * 86_400, True),
        ("architecture=*CNN*", "relu cnn of 4 layers", True), ("architecture!=mlp", "cnn", True),
    ],
)  # fmt: skip
def test_values_are_read_with_their_units(index, condition, value, holds):
    own = Condition.parse(condition, Facts(index._store))
    assert own.holds(value) == holds
    assert own.holding([value, None, value]).tolist() == [holds, condition.count("!=") == 1, holds]


@pytest.mark.parametrize("all_at_once", [True, False])
@pytest.mark.parametrize("noted", [{}, {1: "a", 4: "a"}, {0: "a", 2: "b", 3: "b"}, dict.fromkeys(range(8), "a")])
def test_a_model_belongs_to_the_first_that_it_is_near_to(noted, all_at_once):
    vectors = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = near_groups.NearGroups(lambda places: vectors[places], noted)
    if all_at_once:
        groups.read(range(8))
    first, expected = {}, []
    for place in range(8):
        near = [group for group, other in first.items() if vectors[other] @ vectors[place] >= near_groups.CLOSE]
        expected.append(noted.get(place, near[0] if near else place))
        first.setdefault(expected[-1], place)
    assert [groups.of(place) for place in range(8)] == expected == [groups.of(place) for place in range(8)]


def test_many_values_are_compared_as_each_is():
    values = [None, True, 1, 1.0, "1", "true", ["a", "b"], "['a', 'b']", {"a": 1}, "a", "0.5"]
    for operator in ("=", "!=", ">", "<="):
        for value in ("1", "true", "a", "0.7"):
            own = Condition("epochs", operator, value, "any")
            assert own.holding(values).tolist() == [own.holds(each) for each in values]


def test_a_date_stands_for_all_its_moments(index):
    def holds(text, moment):
        at = time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M"))
        return Condition.parse(f"modified{text}", Facts(index._store)).holds(at)

    assert holds("=2026-01-31", "2026-01-31 23:59") and not holds("=2026-01-31", "2026-02-01 00:00")
    assert holds(">2025-12", "2026-01-01 00:00") and not holds(">2025-12", "2025-12-31 23:59")
    assert holds("<2026", "2025-12-31 23:59") and holds("<=2026", "2026-12-31 23:59")
    assert not holds(">=2026", "2025-12-31 23:59") and holds("!=2026-12", "2027-01-01 00:00")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"where": ["colour=red"]}, "colour: is no key of this index; known are id, path, .*, license, lineage$"),
        ({"where": ["parameters"]}, "parameters: is no condition; write one as 'parameters>6B'"),
        ({"where": ["parameters>many"]}, "'many' is no count; write parameters>6B"),
        ({"where": ["size>3X"]}, "'3X' is no bytes; write size>30GB"),
        ({"where": ["modified>soon"]}, "'soon' is no date; write one as 2026-01-31"),
        ({"where": ["modified>2026-1-2-3"]}, "is no date"),
        ({"where": ["age>30"]}, "is no duration; write age>30d"),
        ({"where": ["architecture>a"]}, "architecture is no number; compare it by = or !="),
        ({"sort": "parameters:up"}, "'up' is no direction; write parameters:asc"),
        ({"where": ["lineage=m01"]}, "lineage: is noted of no model of this index; run `wsrl lineage --note`"),
        ({"sort": "colour"}, "is no key of this index"),
        ({"group_by": "colour"}, "is no key of this index"),
        ({"group_by": "weights", "per_group": 0}, "per_group: is 0"),
        ({"architecture": "that"}, "give one of any, same, other"),
    ],
)
def test_wrong_options_are_told(index, options, line):
    with pytest.raises(InputError, match=line):
        index.search(index.ids[0], **options)


def test_architectures_are_those_of_the_query(index):
    assert {number % 2 for number in numbers(index.search(index.ids[3], 60, architecture="same"))} == {1}
    hits = index.search(index.ids[3], 60, architecture="other")
    assert {number % 2 for number in numbers(hits)} == {0} and len(hits) == 30


def test_groups_show_few_of_each(index):
    plain = numbers(index.search(index.ids[0], 60, "weights"))
    by_weights = numbers(index.search(index.ids[0], 59, "weights", group_by="weights"))
    first, second = sorted((4, 5), key=plain.index)
    assert by_weights == [number for number in plain if number != second] and first in by_weights
    licensed = index.search(index.ids[0], 60, "weights", group_by="license", per_group=2, where=["license=*"])
    assert sorted(str(hit.metadata["license"]) for hit in licensed) == [*["MIT"] * 2, *["apache-2.0"] * 2, *["mit"] * 2]
    assert [hit.rank for hit in licensed] == [1, 2, 3, 4, 5, 6]


def test_the_base_that_files_declare_can_be_asked_for(tmp_path):
    folder = tmp_path / "models"
    write_model(folder / "plain.safetensors", 0)
    write_model(folder / "header.safetensors", 1, base_model="owner/base")
    write_model(folder / "card" / "model.safetensors", 2)
    (folder / "card" / "config.json").write_text("{}")
    (folder / "card" / "README.md").write_text("---\nbase_model:\n- name: owner/base\ntags:\n- {a: b}\n---\n")
    for _ in range(2):  # the second time nothing is embedded
        built = Index.build(FakeEncoder(), folder, tmp_path / "index")
        assert {str(built.metadata(name).get("base_model")) for name in built.ids} == {"None", "['owner/base']"}
        for key in ("base_model", "base"):
            hits = built.search(str(folder / "plain.safetensors"), 9, "weights", where=[f"{key}=owner/base"])
            assert sorted(Path(hit.id).stem for hit in hits) == ["card", "header"]
    assert len(built.search(built.ids[0], 9, "weights", group_by="tags", sort="base_model")) == 3
    built.annotate(next(name for name in built.ids if "plain" in name), {"base": "https://huggingface.co/owner/base"})
    hits = built.search(built.ids[0], 9, "weights", where=["base=owner/base"])
    assert [hit.metadata["base_model"] for hit in hits] == [["owner/base"]] * 3
    assert len(built.search(built.ids[0], 9, "weights", group_by="base_model")) == 1


@pytest.mark.parametrize("configuration", ["config.json", "adapter_config.json"])
def test_an_edited_card_is_noticed(tmp_path, configuration):
    file = tmp_path / "model.safetensors"
    write_model(file, 1)
    (tmp_path / configuration).write_text("{}")
    (tmp_path / "README.md").write_text("---\nbase_model: owner/base\n---\n")
    encoder = FakeEncoder()
    for name in ("owner/base", "https://huggingface.co/owner/other"):
        (tmp_path / "README.md").write_text(f"---\nbase_model: {name}\n---\n")
        built = Index.build(encoder, file, tmp_path / "index")
        assert built.metadata(str(file))["base_model"] == [name.removeprefix("https://huggingface.co/")]
    assert len(encoder.embedded) == 2 and Index.build(encoder, file, tmp_path / "index").changes.unchanged == 1


def test_families_need_no_notes(index, monkeypatch):
    plain = numbers(index.search(index.ids[0], 60, "weights"))
    second = sorted((4, 5), key=plain.index)[1]
    found = numbers(index.search(index.ids[0], 59, "weights", group_by="lineage"))
    assert found == [number for number in plain if number != second]  # no two others are near
    monkeypatch.setattr(near_groups, "CLOSE", 0.0)
    first = index.search(index.ids[0], 60, "weights", group_by="lineage")
    vectors = np.stack([index.get(hit.id).weights for hit in first])
    assert 1 < len(first) < 59 and (np.triu(vectors @ vectors.T, 1) <= 0).all()


def test_noted_families_outrank_near_ones(index, tmp_path):
    shutil.copytree(index.directory, tmp_path / "index")
    noted = Index.open(tmp_path / "index")
    noted.annotate_all({name: {"lineage": str(place // 30)} for place, name in enumerate(noted.ids)})
    hits = noted.search(noted.ids[0], 60, "weights", group_by="lineage")
    assert sorted(str(hit.metadata["lineage"]) for hit in hits) == ["0", "1"]


def test_one_note_leaves_near_families_together(index, tmp_path):
    shutil.copytree(index.directory, tmp_path / "index")
    noted = Index.open(tmp_path / "index")
    found = numbers(noted.search(noted.ids[0], 59, "weights", group_by="lineage"))
    noted.annotate(noted.ids[-1], {"lineage": "a"})
    assert numbers(noted.search(noted.ids[0], 59, "weights", group_by="lineage")) == found


def test_hits_are_sorted_by_a_key(index):
    hits = index.search(index.ids[0], 20, "weights")
    by_time = index.search(index.ids[0], 20, "weights", sort="modified:desc")
    assert numbers(by_time) == sorted(numbers(hits), reverse=True)
    assert {(hit.id, hit.rank) for hit in hits} == {(hit.id, hit.rank) for hit in by_time}
    noted = numbers(index.search(index.ids[0], 60, sort="license"))
    assert set(noted[:4]) == {1, 4, 7, 10} and all(number > 11 for number in noted[12:])


def test_the_explanation_tells_what_was_compared(index, monkeypatch):
    index.search(index.ids[0], by="weights")
    exact = index.explanation
    assert (exact.by, exact.index, exact.models, exact.among, exact.compared) == ("weights", "exact", 60, 60, 60)
    assert exact.unindexed == 0 and 0 < exact.seconds < 5
    monkeypatch.setattr(searcher, "BRUTE_FORCE_BELOW", 0)  # by few candidates, which are all there are
    index.search(index.ids[0], by="function")
    assert index.explanation.by == "function" and index.explanation.index == "exact"
    index.search(index.ids[0], by="function", exact=True)
    assert index.explanation.index == "exact"


def test_the_command(index, monkeypatch, capsys):
    monkeypatch.setattr(query_rows, "load_encoder", FakeEncoder)
    monkeypatch.delenv("COLUMNS", raising=False)
    ask = ["search", index.ids[0], index.ids[7], "--not", index.ids[3], "--index", str(index.directory)]
    assert main([*ask, "--where", "license=mit", "--format", "json", "--explain", "--by", "weights"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    expected = index.search([index.ids[0], index.ids[7]], by="weights", against=index.ids[3], where=["license=mit"])
    assert [hit["id"] for hit in told["results"]] == [hit.id for hit in expected]
    name = f"{index.ids[0]} + {index.ids[7]} - {index.ids[3]}"
    assert told["about"][0]["query"] == told["results"][0]["query"] == name
    assert told["about"][0]["compared"] == 60 and err.startswith("by weights, index: exact, 60 vectors compared")
    assert main([*ask, "--format", "ids", "-k", "3", "--sort", "id", "--same-architecture"]) == 0
    ids = capsys.readouterr().out.splitlines()
    assert len(ids) == 3 and ids == sorted(ids)
    assert (
        main([*ask[:3], "--each", "--index", str(index.directory), "--json", "-k", "2", "--group-by", "weights"]) == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == [index.ids[0]] * 2 + [index.ids[7]] * 2
    assert main([*ask, "--where", "license=mit", "--format", "human"]) == 0
    assert ": nearest by function of 8 of 60 models\n" in capsys.readouterr().out
    assert main([*ask, "--per-group", "0"]) == 1
    assert capsys.readouterr().err == "error: --per-group: 0 is too small; give 1 or more\n"
