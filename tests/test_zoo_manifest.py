import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.errors import InputError
from wsrl.zoo.manifest import REQUIRED, SPLITS, Record, append_records, assign_splits, read_manifest

LINE = {
    "id": "a",
    "path": "a.safetensors",
    "task": "t",
    "dataset": "d",
    "architecture": "mlp",
    "activation": "relu",
    "seed": 0,
    "parent": None,
    "step": 10,
    "accuracy": 0.5,
    "split": None,
}


def write(directory, *lines):
    for name in ("a", "b", "c"):
        (directory / f"{name}.safetensors").touch()
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (directory / "models.jsonl").write_text(text)


def record(name, task="t", parent=None, **fields):
    extra = {"run": name, "lineage": fields.pop("lineage", name)}
    return Record(**LINE | {"id": name, "task": task, "parent": parent, "extra": extra} | fields)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
json_values = st.none() | st.booleans() | st.integers() | texts | st.lists(st.integers(), max_size=3)
records = st.builds(
    Record,
    id=texts,
    path=st.just("a.safetensors"),
    task=texts,
    dataset=texts,
    architecture=texts,
    activation=texts,
    seed=st.integers(0, 2**32),
    parent=st.none() | texts,
    step=st.integers(0),
    accuracy=st.floats(0, 1),
    split=st.sampled_from([*SPLITS, None]),
    extra=st.dictionaries(texts.filter(lambda key: key not in {*REQUIRED, "run", "lineage"}), json_values).map(
        lambda extra: extra | {"run": "r", "lineage": "l"}
    ),
)


@settings(max_examples=30)
@given(st.lists(records, min_size=1, max_size=5, unique_by=lambda record: record.id), st.data())
def test_round_trip(tmp_path_factory, written, data):
    directory = tmp_path_factory.mktemp("zoo")
    (directory / "a.safetensors").touch()
    cut = data.draw(st.integers(0, len(written)))
    append_records(directory, written[:cut])
    append_records(directory, written[cut:])
    assert read_manifest(directory) == (written, [])
    assert sorted(path.name for path in directory.iterdir()) == ["a.safetensors", "models.jsonl"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accuracy": float("nan")}, "accuracy is not a number"),
        ({"accuracy": 1.5}, "accuracy is not a number"),
        ({"accuracy": True}, "accuracy is not a number"),
        ({"accuracy": "0.5"}, "accuracy is not a number"),
        ({"seed": 1.0}, "seed is not a whole number"),
        ({"step": None}, "step is not a whole number"),
        ({"step": -1}, "step is negative"),
        ({"task": ""}, "task is not text"),
        ({"id": 3}, "id is not text"),
        ({"parent": 3}, "parent is neither"),
        ({"split": "holdout"}, "split is none of"),
        ({"run": 3}, "run is not text"),
        ({"path": "../a.safetensors"}, "leaves the directory"),
        ({"path": "/etc/hostname"}, "leaves the directory"),
        ({"path": "x/../../a.safetensors"}, "leaves the directory"),
        ({"path": "C:\\a"}, "leaves the directory"),
        ({"path": "a\0b"}, "leaves the directory"),
        ({"path": "none.safetensors"}, "no file none.safetensors"),
        ({"id": "a"}, "again"),
    ],
)
def test_unusable_line_is_skipped_and_told(tmp_path, change, reason):
    write(tmp_path, LINE, LINE | {"id": "b"} | change, LINE | {"id": "c"})
    found, problems = read_manifest(tmp_path)
    assert [record.id for record in found] == ["a", "c"]
    assert len(problems) == 1 and "models.jsonl:2: " in problems[0] and reason in problems[0]


@pytest.mark.parametrize("line", ["{", "[1]", "3", '{"id": "b"}', "[" * 100_000, '{"accuracy": 1e999}', "\x00"])
def test_torn_line_is_skipped_and_told(tmp_path, line):
    write(tmp_path, LINE, line, "", LINE | {"id": "c"})
    found, problems = read_manifest(tmp_path)
    assert [record.id for record in found] == ["a", "c"] and len(problems) == 1


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_key_is_told(tmp_path, key):
    write(tmp_path, LINE, {name: LINE[name] for name in LINE if name != key} | {"x": 1})
    assert f"no {key}" in read_manifest(tmp_path)[1][0]


def test_nothing_usable(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path)
    for lines in ([], ["{"]):
        write(tmp_path, *lines)
        with pytest.raises(InputError, match="no "):
            read_manifest(tmp_path)


def test_a_link_out_of_the_directory_is_not_followed(tmp_path):
    outside = tmp_path / "secret"
    outside.touch()
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    write(zoo, LINE, LINE | {"id": "b", "path": "link"})
    (zoo / "link").symlink_to(outside)
    assert "leaves the directory" in read_manifest(zoo)[1][0]


def test_lineage_is_the_root_of_the_parents(tmp_path):
    lines = [
        LINE | {"id": "c", "parent": "b"},
        LINE | {"id": "b", "parent": "a"},
        LINE | {"id": "a", "parent": "gone"},
        LINE | {"id": "x", "parent": "y"},  # a cycle
        LINE | {"id": "y", "parent": "x"},
        LINE | {"id": "z", "parent": "z", "lineage": "own", "run": "r"},
    ]
    write(tmp_path, *lines)
    found = {record.id: record for record in read_manifest(tmp_path)[0]}
    assert [found[name].get("lineage") for name in "cbaxyz"] == ["gone"] * 3 + ["x", "x", "own"]
    assert [found[name].get("run") for name in "az"] == ["a", "r"]


@settings(max_examples=30)
@given(st.integers(0, 100), st.integers(3, 20))
def test_assigned_splits_share_no_task_and_no_lineage(seed, tasks):
    records = [record(f"{task}-{i}", f"task {task}") for task in range(tasks) for i in range(3)]
    records.append(record("child", f"task {tasks}", parent="0-0", lineage="0-0"))
    assigned = assign_splits(records, seed)
    assert assigned == assign_splits(records, seed)
    assert {record.split for record in assigned} == set(SPLITS)
    for key in ("task", "lineage"):
        splits = {}
        for one in assigned:
            assert splits.setdefault(one.get(key), one.split) == one.split
    assert [dataclasses.replace(one, split=None) for one in assigned] == records


def test_too_few_groups_for_splits():
    with pytest.raises(InputError, match="2 unrelated groups"):
        assign_splits([record("a", "s"), record("b", "t"), record("c", "t")])
