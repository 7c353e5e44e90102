import os

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsrl.checkpoint import CheckpointError
from wsrl.zoo import load
from wsrl.zoo.load import load_networks, stream_networks
from wsrl.zoo.manifest import Record, append_records, read_manifest
from wsrl.zoo.models import MLP
from wsrl.zoo.shards import read_record, stream_records, write_shard
from wsrl.zoo.storage import STORAGES, checkpoint_bytes, read_checkpoints, write_checkpoints

CONTENTS = [np.random.default_rng(i).bytes(1000 + i) for i in range(20)]
MODEL = MLP("relu", widths=(6, 5))


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "new" / "a.array_record"
    write_shard(path, CONTENTS)
    return path


def test_every_record_is_read_at_its_place(shard):
    assert os.listdir(shard.parent) == [shard.name]
    order = np.random.default_rng(0).permutation(20).tolist()
    assert list(stream_records(shard, order)) == [CONTENTS[i] for i in order]
    assert read_record(shard, 7) == CONTENTS[7]


@pytest.mark.parametrize("position", [-1, 20, 2**63, 2**80])
def test_a_position_out_of_range_is_told(shard, position):
    before, error, after = stream_records(shard, [0, position, 19])
    assert (before, after) == (CONTENTS[0], CONTENTS[19])
    assert isinstance(error, CheckpointError) and f"no record {position}, only 20" in str(error)
    with pytest.raises(CheckpointError, match="no record"):
        read_record(shard, position)


def damaged(shard, content):
    """What is read of a shard with other content; every error is one line."""
    path = shard.parent.parent / "damaged"
    path.write_bytes(content)
    found = list(stream_records(path, range(20)))
    errors = [error for error in found if isinstance(error, CheckpointError)]
    assert len(found) == 20 and all("\n" not in str(error) and str(path) in str(error) for error in errors)
    return found, errors


@settings(max_examples=60)
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
@example(0.5)  # a whole block of the format
def test_a_truncated_shard_is_told(shard, share):
    content = shard.read_bytes()
    assert len(damaged(shard, content[: int(share * len(content))])[1]) == 20


@settings(max_examples=200)
@given(st.integers(0, 2**30), st.integers(0, 7))
def test_damage_is_told_and_never_read_as_a_record(shard, place, bit):
    content = bytearray(shard.read_bytes())
    content[place % len(content)] ^= 1 << bit
    for record, found in zip(CONTENTS, damaged(shard, content)[0], strict=True):
        assert isinstance(found, CheckpointError) or found == record


def test_damage_to_one_record_spares_the_others(shard):
    content = bytearray(shard.read_bytes())
    content[content.index(CONTENTS[9]) + 500] ^= 1
    found, errors = damaged(shard, content)
    assert len(errors) == 1 and "record 9 cannot be read" in str(found[9])


@pytest.mark.parametrize("content", [b"", b"text", bytes(200_000), CONTENTS[0] * 200])
def test_other_files_are_told(shard, content):
    assert len(damaged(shard, content)[1]) == 20


def test_missing_files_and_folders_are_told(shard):
    for path in (shard.parent / "none", shard.parent):
        with pytest.raises(CheckpointError, match=r"cannot be read \((No such file|Is a directory)"):
            read_record(path, 0)


def tensors(seed):
    rng = np.random.default_rng(seed)
    shapes = {"Dense_0": (16, 6), "Dense_1": (6, 5), "Dense_2": (5, 3)}
    drawn = {f"params/{name}/kernel": rng.standard_normal(shape) for name, shape in shapes.items()}
    drawn |= {f"params/{name}/bias": rng.standard_normal(shape[1]) for name, shape in shapes.items()}
    return {name: tensor.astype(np.float32) for name, tensor in drawn.items()}


def make_zoo(directory, storage, seeds=range(7), spoil=lambda i, content: content):
    """A zoo of two shards, or of a file each."""
    made = []
    for i, seed in enumerate(seeds):
        fields = {"task": "t", "dataset": "d", "architecture": "mlp", "activation": "relu", "seed": seed}
        extra = {"run": f"r{i}", "lineage": f"r{i}", "strides": [], "input_shape": [4, 4, 1]}
        path = f"checkpoints/r{i}/1.safetensors"
        record = Record(f"r{i}/1", path, **fields, parent=None, step=1, accuracy=0.5, split="train", extra=extra)
        made.append((record, spoil(i, checkpoint_bytes(tensors(seed), MODEL, 4))))
    for name, part in (("a", made[:4]), ("b", made[4:])):
        append_records(directory, write_checkpoints(directory, storage, name, part))
    return read_manifest(directory)[0]


def same(ours, theirs):
    assert [record.id for record in ours.records] == [record.id for record in theirs.records]
    for a, b in zip(ours.checkpoints, theirs.checkpoints, strict=True):
        assert a.tensors.keys() == b.tensors.keys() and a.metadata["activation"] == b.metadata["activation"]
        assert all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    for a, b in zip(ours.graphs, theirs.graphs, strict=True):
        np.testing.assert_array_equal(a.nodes.bias, b.nodes.bias)


def test_both_storages_hold_the_same_networks(tmp_path):
    loaded = {name: load_networks(tmp_path / name, make_zoo(tmp_path / name, name), 4) for name in STORAGES}
    assert len(loaded["files"].records) == 7 and not loaded["files"].problems
    same(loaded["files"], loaded["array_record"])
    records = loaded["array_record"].records
    assert [(record.path, record.get("record")) for record in records] == [
        *((f"shards/{name}.array_record", i) for name, number in (("a", 4), ("b", 3)) for i in range(number))
    ]
    assert sorted(path.name for path in (tmp_path / "array_record" / "shards").iterdir()) == [
        "a.array_record",
        "b.array_record",
    ]


@pytest.mark.parametrize("storage", STORAGES)
def test_what_cannot_be_used_is_left_out_and_told(tmp_path, storage):
    def spoil(i, content):
        if i == 1:
            return b"no checkpoint"
        if i == 2:
            return safetensors.numpy.save({"w": np.full(3, np.nan, np.float32)})
        return content[:-1] if i == 5 else content

    networks = load_networks(tmp_path, make_zoo(tmp_path, storage, [0, 1, 2, 3, 0, 5, 6], spoil), 4)
    assert [record.id for record in networks.records] == ["r0/1", "r3/1", "r6/1"]
    for problem, named in zip(networks.problems, ("", "NaN or Inf", "same weights as r0/1", ""), strict=True):
        assert "left out" in problem and named in problem and "\n" not in problem


def test_a_lost_shard_is_left_out_and_told(tmp_path):
    records = make_zoo(tmp_path, "array_record")
    (tmp_path / "shards" / "a.array_record").write_bytes(b"")
    networks = load_networks(tmp_path, records, 4)
    assert len(networks.records) == 3 and len(networks.problems) == 4
    (tmp_path / "shards" / "a.array_record").unlink()
    found, problems = read_manifest(tmp_path)
    assert len(found) == 3 and len(problems) == 4 and "no file shards/a.array_record" in problems[0]


@pytest.mark.parametrize("position", ["1", -1, True, 1.0, None])
def test_a_position_that_is_none_is_told(tmp_path, position):
    record = make_zoo(tmp_path, "array_record")[0]
    append_records(tmp_path, [Record(**{**vars(record), "id": "x", "extra": record.extra | {"record": position}})])
    assert "record is not a whole number" in read_manifest(tmp_path)[1][0]


@pytest.mark.parametrize("storage", STORAGES)
def test_windows_together_are_the_whole_zoo(tmp_path, storage):
    records = make_zoo(tmp_path, storage, [0, 1, 2, 0, 4, 5, 1])
    whole = load_networks(tmp_path, records, 4)
    for window in (1, 3, 7, 100):
        windows = list(stream_networks(tmp_path, records, 4, window))
        assert len(windows) == -(-7 // window) and max(len(part.records) for part in windows) <= window
        joined = [[x for part in windows for x in part[field]] for field in range(4)]
        same(whole, load.Networks(*joined))
        assert joined[3] == whole.problems and len(whole.problems) == 2
    assert load_networks(tmp_path, [], 4) == ([], [], [], [])


def test_only_one_window_is_held(tmp_path, monkeypatch):
    """A window is dropped before the next one is built, where the caller keeps none."""
    import weakref

    records, alive = make_zoo(tmp_path, "array_record"), []

    def counted(checkpoint, tile):
        graph = original(checkpoint, tile)
        held.append(sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(graph.nodes.bias))
        return graph

    original, held = load.checkpoint_graph, []
    monkeypatch.setattr(load, "checkpoint_graph", counted)
    for _ in map(lambda part: None, stream_networks(tmp_path, records, 4, 2)):
        pass
    assert held == [0, 1, 0, 1, 0, 1, 0]


def test_records_are_read_in_any_order(tmp_path):
    records = make_zoo(tmp_path, "array_record")
    order = [5, 0, 6, 6, 1, 2]
    for i, checkpoint in zip(order, read_checkpoints(tmp_path, [records[i] for i in order]), strict=True):
        assert not isinstance(checkpoint, CheckpointError)
        assert np.array_equal(checkpoint.tensors["params/Dense_0/kernel"], tensors(i)["params/Dense_0/kernel"])
