import json
import os
import subprocess
import sys

import numpy as np
import orbax.checkpoint
import pytest
import zstandard

from experiments.proofs.samples_flax import SAMPLES, orbax_folder, train_state
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.readers.zarr import open_zarr


@pytest.mark.parametrize("name", ["orbax", "orbax-files", "orbax-shards"])
def test_tensors_of_a_train_state(tmp_path, name):
    checkpoint = open_checkpoint(SAMPLES[name](tmp_path))
    state = train_state()
    assert set(checkpoint.metadata["left_out"]) == {"opt_state", "step"}
    for layer, weight in (("dense", "kernel"), ("dense", "bias"), ("bn", "scale")):
        array = state["params"][layer][weight]
        tensor = checkpoint.tensors[f"{layer}/{weight}"]
        assert tensor.dtype == array.dtype.name
        np.testing.assert_array_equal(np.asarray(tensor), array.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["bn/mean"]), state["batch_stats"]["bn"]["mean"])
    assert np.asarray(checkpoint.tensors["temperature"]) == 0.5


def test_the_newest_step_of_a_run(tmp_path):
    options = orbax.checkpoint.CheckpointManagerOptions(step_prefix="run", enable_async_checkpointing=False)
    with orbax.checkpoint.CheckpointManager(tmp_path / "run", options=options) as manager:
        for step in (2, 10):
            tree = {"w": np.full(3, step, np.float32)}
            save = orbax.checkpoint.args.StandardSave(tree)
            manager.save(
                step, args=orbax.checkpoint.args.Composite(state=save, other=orbax.checkpoint.args.JsonSave({}))
            )
    checkpoint = open_checkpoint(tmp_path / "run")
    assert checkpoint.metadata["step"] == "run_10" and checkpoint.metadata["item"] == "state"
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["w"]), [10, 10, 10])


@pytest.mark.parametrize("name", ["orbax", "orbax-files", "orbax-shards"])
def test_without_a_description_of_the_tree(tmp_path, name):
    path = SAMPLES[name](tmp_path)
    whole = open_checkpoint(path)
    (path / "_METADATA").unlink()
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensors.keys() == whole.tensors.keys()


def test_links_out_of_the_folder_are_refused(tmp_path):
    path = orbax_folder(tmp_path / "a", use_ocdbt=False)
    (tmp_path / "secret").write_bytes(b"secret")
    (path / "extra").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="link out"):
        open_checkpoint(path)
    (path / "extra").unlink()
    os.mkfifo(path / "extra")
    with pytest.raises(CheckpointError, match="neither file nor folder"):
        open_checkpoint(path)


@pytest.mark.parametrize("key", ["../a/params", "/etc", "nul\0", 5])
def test_arrays_elsewhere_are_refused(tmp_path, key):
    path = orbax_folder(tmp_path / "a", use_ocdbt=False)
    tree = json.loads((path / "_METADATA").read_text())
    tree["tree_metadata"]["x"] = {"key_metadata": [{"key": key}, {"key": "x"}]}
    (path / "_METADATA").write_text(json.dumps(tree))
    if key == 5:
        assert "5/x" in open_checkpoint(path).metadata["left_out"]
    else:
        with pytest.raises(CheckpointError, match=r"a: .*; "):
            open_checkpoint(path)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"tree_metadata": []}, {"tree_metadata": {"a": 1}}, {"tree_metadata": {"a": {"key_metadata": [1]}}}],
)
def test_a_broken_tree_is_refused(tmp_path, metadata):
    (tmp_path / "_METADATA").write_text(json.dumps(metadata))
    with pytest.raises(CheckpointError, match="well-formed"):
        open_checkpoint(tmp_path)


def zarr(tmp_path, values, version=2, sparse=True, **changes):
    two = {"shape": [4, 3], "chunks": [2, 3], "dtype": "<f4", "compressor": None, "order": "C", "filters": None}
    shards = {
        "chunk_shape": [2, 3],
        "codecs": [{"name": "bytes"}],
        "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}],
    }
    three = {
        "shape": [4, 3],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 3]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "sharding_indexed", "configuration": shards}],
    }
    text = json.dumps((two if version == 2 else three) | changes).encode()
    return open_zarr(values.get, text, version, sparse, 10_000, tmp_path, "w")


ZSTD = {"id": "zstd", "level": 1}
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_chunks_as_they_are_and_compressed(tmp_path):
    chunks = {"0.0": ROWS[:2].tobytes(), "1.0": ROWS[2:].tobytes()}
    np.testing.assert_array_equal(np.asarray(zarr(tmp_path, chunks)), ROWS)
    packed = {key: zstandard.compress(value) for key, value in chunks.items()}
    np.testing.assert_array_equal(zarr(tmp_path, packed, compressor=ZSTD).rows(1, 4), ROWS[1:])
    del chunks["0.0"]
    np.testing.assert_array_equal(zarr(tmp_path, chunks).rows(1, 3), [[0, 0, 0], ROWS[2]])
    with pytest.raises(CheckpointError, match="a chunk of 'w' is missing"):
        zarr(tmp_path, chunks, sparse=False).rows(1, 3)


def shard(*entries, body=None):
    body = ROWS.tobytes() if body is None else body
    return {"c/0/0": body + np.array(entries, "<u8").tobytes() + bytes(4)}


def test_shards(tmp_path):
    np.testing.assert_array_equal(np.asarray(zarr(tmp_path, shard(0, 24, 24, 24), 3)), ROWS)
    absent = (1 << 64) - 1
    np.testing.assert_array_equal(zarr(tmp_path, shard(0, 24, absent, absent), 3).rows(2, 4), np.zeros((2, 3)))


@pytest.mark.parametrize("entries", [(0, 24, 25, 24), (0, 20, 24, 24), (2**63, 24, 0, 0), (0, 2**63, 0, 0), ()])
def test_broken_shards_are_refused(tmp_path, entries):
    with pytest.raises(CheckpointError, match="a chunk of 'w'"):
        np.asarray(zarr(tmp_path, shard(*entries, body=None if entries else b""), 3))


@pytest.mark.parametrize(
    "content", [b"", b"x" * 24, zstandard.compress(bytes(23)), zstandard.compress(bytes(1 << 27)), b"(\xb5/\xfd"]
)
def test_broken_chunks_and_bombs_are_refused(tmp_path, content):
    for key in ("0.0", "1.0"):
        with pytest.raises(CheckpointError, match="a chunk of 'w'"):
            np.asarray(zarr(tmp_path, {key: content, "0.0": content}, compressor=ZSTD))


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        (2, {"shape": [2**40, 3]}),
        (2, {"shape": [2**60, 2**60]}),
        (2, {"shape": [-1, 3]}),
        (2, {"shape": [2**20, 1], "chunks": [1, 1]}),
        (2, {"shape": "4"}),
        (2, {"chunks": [2**30, 3]}),
        (2, {"chunks": [0, 3]}),
        (2, {"chunks": [2]}),
        (2, {"order": "F"}),
        (2, {"compressor": {"id": "blosc"}}),
        (2, {"compressor": 3}),
        (2, {"filters": [1]}),
        (3, {"codecs": []}),
        (3, {"codecs": [1]}),
        (3, {"codecs": [{"name": "gzip"}]}),
        (3, {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]}),
        (3, {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 3]}}}),
        (3, {"chunk_grid": {"name": "odd"}}),
        (3, {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "../"}}}),
    ],
)
def test_odd_arrays_are_refused(tmp_path, version, changes):
    with pytest.raises(CheckpointError, match="'w'"):
        zarr(tmp_path, {}, version, **changes)


@pytest.mark.parametrize("kind", ["<c8", "|S3", ["<f4"], None, [["a", "<f4"]]])
def test_arrays_of_other_types_are_left_out(tmp_path, kind):
    assert zarr(tmp_path, {}, dtype=kind) is None


def test_jax_is_not_imported():
    code = "import sys, wsrl.readers.orbax; assert not {'jax', 'tensorstore', 'orbax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_steps_that_are_unfinished_are_passed_over(tmp_path):
    for step in (10, 20):
        orbax_folder(tmp_path / "run" / str(step))
    (tmp_path / "run" / "20").rename(tmp_path / "run" / "20.orbax-checkpoint-tmp-17")
    checkpoint = open_checkpoint(tmp_path / "run")
    assert checkpoint.metadata["step"] == "10"
    assert checkpoint.metadata["warnings"] == ("20.orbax-checkpoint-tmp-17 is unfinished and not read",)
    (tmp_path / "run" / "10").rename(tmp_path / "run" / "10.orbax-checkpoint-tmp-16")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint(tmp_path / "run")
