"""What a later state of an index takes over from an earlier one, and what its database finds without reading all."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_encoder import FakeEncoder, write_model

from wsrl.search import store
from wsrl.search.catalog import Catalog, Change, Model, Place, Stat
from wsrl.search.index import Index
from wsrl.search.write_database import write_database


def model(name: str, row: int, kind: str = "kind") -> Model:
    digest = name * 64
    return Model(
        name, name, Stat(1, row, 10, 0), digest, digest, kind, 5, None, (), "", (), {}, {}, (), Place(1, row, None, row)
    )


CHANGES = [
    Change(models=[model("a", 0), model("b", 1), model("c", 2)]),
    Change(models=[model("d", 3)]),
    Change(annotations={("a", "note"): "x"}),
    Change(models=[model("e", 4), model("f", 5)]),
    Change(removed=["f"]),  # its number goes to the next
    Change(models=[model("g", 6)]),
    Change(models=[model("b", 7, "other")]),
    Change(models=[model("h", 8)], removed=["a"]),
    Change(renamed={"c": "i"}, removed=["c"], models=[model("i", 2)]),
    Change(moved={"d": Place(2, 0, None, 0)}),
    Change(lost=["e"]),
    Change(models=[model("j", 9)]),
]


def written(folder: Path, changes: list[Change]) -> list[Catalog]:
    paths = [folder / f"{number}.sqlite" for number in range(len(changes))]
    for number, change in enumerate(changes):
        write_database(paths[:number][-1:], paths[number], change)
    return [Catalog([path]) for path in paths]


def test_columns_are_the_same_whatever_earlier_state_is_known(tmp_path):
    states = written(tmp_path, CHANGES)
    every = [state.columns() for state in states]
    for number, (state, expected) in enumerate(zip(states, every, strict=True)):
        for before in every[: number + 1]:
            found = state.columns(before)
            assert found.ids == expected.ids and found.architectures == expected.architectures
            np.testing.assert_array_equal(found.places, expected.places)
    lines = [own.parts[0].line for own in every]
    assert lines[1] == lines[3] and len({*lines}) == 7  # nothing but additions: these alone are read


def test_columns_of_several_databases(tmp_path):
    """Additions to a state may stand in databases of their own, which later ones take in."""
    parts = [
        [Change(models=[model("a", 0), model("b", 1)])],
        [Change(models=[model("c", 2), model("d", 3)])],
        [Change(models=[model("e", 4)], moved={"d": Place(5, 0, None, 0)})],
        [Change(models=[model("f", 5)], annotations={("c", "note"): "x"})],
    ]
    first, second, third, both = (tmp_path / f"{number}.sqlite" for number in range(4))
    write_database([], first, parts[0][0])
    write_database([], second, parts[1][0], 3)
    write_database([second], third, parts[2][0])
    write_database([first, third], both, parts[3][0])
    states = [Catalog(paths) for paths in ([first], [first, second], [first, third], [both])]
    every = [state.columns() for state in states]
    assert [own.ids for own in every] == [[*"ab"], [*"abcd"], [*"abcde"], [*"abcdef"]]
    assert [part.models for part in every[2].parts] == [2, 3] and every[2].places[3].tolist() == [5, 0, -1, 0]
    for number, (state, expected) in enumerate(zip(states, every, strict=True)):
        for before in every[: number + 1]:
            found = state.columns(before)
            assert found.ids == expected.ids and found.parts == expected.parts
            np.testing.assert_array_equal(found.places, expected.places)
        for name in expected.ids:
            assert state.get(name) == states[-1].get(name) or name == "d"
            assert state.same_weights(name * 64) == {name}
        assert [own.id for own in state.models()] == expected.ids and state.problems() == []
    assert states[-1].annotations("c") == {"note": "x"} and states[-1].models({5})[0].id == "d"


def test_states_of_one_line_begin_alike(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (one,) = written(first, CHANGES[:1])
    _, other = written(second, [Change(models=[model("a", 0), model("b", 1), model("z", 2)]), CHANGES[1]])
    assert other.columns(one.columns()).ids == ["a", "b", "z", "d"]


@pytest.mark.parametrize(
    "find",
    [
        lambda catalog: catalog.same_weights("b" * 64),
        lambda catalog: catalog.of_content("b" * 64),
        lambda catalog: catalog.unchanged(Stat(1, 1, 10, 0)),
        lambda catalog: catalog.of_size(10),
    ],
)
def test_what_is_known_of_a_query_is_found_by_an_index(tmp_path, find):
    (catalog,) = written(tmp_path, CHANGES[:1])
    asked = []
    connection = catalog._databases[0].connection
    connection.set_trace_callback(asked.append)
    assert find(catalog)
    connection.set_trace_callback(None)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}")]
    assert any("USING INDEX by_" in step or "USING COVERING INDEX by_" in step for step in plan)
    assert not any(step.startswith("SCAN models") for step in plan)


def test_a_reopened_index_takes_over_its_files_and_is_the_newest_state(tmp_path):
    for seed in range(4):
        write_model(tmp_path / "models" / f"{seed}.safetensors", seed)
        write_model(tmp_path / "more" / f"{seed}.safetensors", 10 + seed)
    folder = tmp_path / "index"
    index, other = (Index.build(FakeEncoder(), tmp_path / "models", folder) for _ in range(2))
    before = dict(index._store._files)
    other.add(FakeEncoder(), tmp_path / "more")
    index.reopen()
    assert index.ids == other.ids == Index.open(folder).ids and len(index) == 8
    assert index._store._files["weights-000001.npy"] is before["weights-000001.npy"]
    assert index.search(other.ids[-1], 1, "weights")[0].id == other.ids[-1]
    shutil.rmtree(folder)
    built = Index.build(FakeEncoder(), tmp_path / "more", folder)
    index.reopen()
    assert index.ids == built.ids
    for name in index.ids:
        np.testing.assert_array_equal(index.get(name).weights, built.get(name).weights)


def test_a_state_that_is_replaced_while_it_is_opened_gives_way_to_the_next(tmp_path, monkeypatch):
    for seed in range(3):
        write_model(tmp_path / "models" / f"{seed}.safetensors", seed)
    index, other = (Index.build(FakeEncoder(), tmp_path / "models", tmp_path / "index") for _ in range(2))
    other.annotate(other.ids[0], {"note": "first"})
    begun = []

    def catalog(paths: list[Path]) -> Catalog:
        if not begun:
            begun.extend(paths)
            other.annotate(other.ids[0], {"note": "second"})
            assert not paths[0].exists()
        return Catalog(paths)

    monkeypatch.setattr(store, "Catalog", catalog)
    index.reopen()
    assert index.metadata(index.ids[0])["note"] == "second"
