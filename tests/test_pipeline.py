"""The pipeline on Beam's direct runner: the index that it makes, what it does not do twice, and the hub on loopback."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fake_encoder import FakeEncoder, write_model
from local_hub import Hub, environment, serving

pytest.importorskip("apache_beam", reason="needs the extra beam")

from pipeline_encoder import Make

from wsrl.errors import InputError
from wsrl.pipelines import parts
from wsrl.pipelines.beam import main, run
from wsrl.pipelines.headers import remote_header
from wsrl.search.index import Index

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
    pytest.mark.filterwarnings("ignore::FutureWarning:apache_beam"),
]
ROOT = Path(__file__).parents[1]
OPTIONS = ["--runner=DirectRunner"]


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)


def piped(sources, out, notes, batch=2):
    """Runs the pipeline; returns what was done and which files have been embedded so far."""
    index = run([str(source) for source in sources], str(out), out / "index", Make(notes), batch, OPTIONS)
    return index.changes, [Path(line).name for line in notes.read_text().splitlines()]


def contents(index):
    """All that an index holds, by id."""
    rows = {name: (index.get(name), index.metadata(name), index._model(name)) for name in index.ids}
    return {
        name: (row.weights.tolist(), None if row.function is None else row.function.tolist(), row.weights_digest,
               row.content_digest, row.accuracy, list(row.tensors), row.assumed, about, model.path, model.stat)
        for name, (row, about, model) in rows.items()
    }  # fmt: skip


def test_the_index_is_that_of_one_process(models, tmp_path):
    shutil.copyfile(models / "a.safetensors", models / "copy.safetensors")
    (models / "broken.safetensors").write_bytes(b"broken")
    changes, embedded = piped([models], tmp_path / "out", tmp_path / "notes")
    told = Index.build(FakeEncoder(), models, tmp_path / "out" / "other")
    assert contents(Index.open(tmp_path / "out" / "index")) == contents(told)
    assert Index.open(tmp_path / "out" / "index").sources == told.sources
    assert [str(problem) for problem in changes.problems] == [str(problem) for problem in told.changes.problems]
    assert sorted(embedded) == ["a.safetensors", "c.safetensors", "d.safetensors"]  # the copy is embedded with it


def test_a_second_run_reads_what_is_new_alone(models, tmp_path, monkeypatch):
    (models / "broken.safetensors").write_bytes(b"broken")
    piped([models], tmp_path / "out", tmp_path / "notes")
    before = Index.open(tmp_path / "out" / "index")
    read = []
    monkeypatch.setattr("wsrl.pipelines.listing.content_digest", lambda path: read.append(str(path)) or "0" * 64)
    changes, embedded = piped([models], tmp_path / "out", tmp_path / "notes")
    assert (len(embedded), read, changes.embedded, changes.unchanged) == (3, [], 0, 3)
    assert len(changes.problems) == 1 and Index.open(before.directory).info()["commits"] == before.info()["commits"]
    monkeypatch.undo()
    write_model(models / "b" / "c.safetensors", 9)
    (models / "a.safetensors").rename(models / "z.safetensors")
    (models / "b" / "d.safetensors").unlink()
    changes, embedded = piped([models], tmp_path / "out", tmp_path / "notes")
    assert embedded[3:] == ["c.safetensors"]
    index = Index.open(before.directory)
    assert sorted(Path(name).name for name in index.ids) == ["c.safetensors", "z.safetensors"]
    assert contents(index) == contents(Index.build(FakeEncoder(), models, tmp_path / "out" / "other"))
    assert len(parts.find_parts(str(tmp_path / "out"), parts.NAMES)) == 1  # those of former runs are gone


def test_a_killed_run_goes_on(tmp_path):
    for number in range(12):
        write_model(tmp_path / "models" / f"{number:02}.safetensors", number, number % 2 == 0)
    notes, out = tmp_path / "notes", tmp_path / "out"
    code = (
        f"from pathlib import Path; from pipeline_encoder import Make; from wsrl.pipelines.beam import run\n"
        f"run([{str(tmp_path / 'models')!r}], {str(out)!r}, None, Make(Path({str(notes)!r}), 7), 2, {OPTIONS!r})"
    )
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": places}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    written = [key for path in parts.find_parts(str(out), parts.VECTORS) for key in parts.read_keys(path)]
    assert len(written) == len(set(written)) == 6  # the seventh was lost with its batch
    changes, embedded = piped([tmp_path / "models"], out, notes)
    assert len(embedded) == 7 + 6 and len(set(embedded)) == 12
    assert (changes.embedded, changes.problems) == (12, [])
    told = Index.build(FakeEncoder(), tmp_path / "models", out / "other")
    assert contents(Index.open(out / "index")) == contents(told)
    written = [key for path in parts.find_parts(str(out), parts.VECTORS) for key in parts.read_keys(path)]
    assert len(written) == len(set(written)) == 12


def test_networks_of_one_architecture_are_embedded_together(tmp_path):
    for number in range(8):
        write_model(tmp_path / "models" / f"{number}.safetensors", number, function=number % 2 == 0)
    _, embedded = piped([tmp_path / "models"], tmp_path / "out", tmp_path / "notes", batch=4)
    halves = {frozenset(int(name[0]) % 2 for name in embedded[start : start + 4]) for start in (0, 4)}
    assert halves == {frozenset([0]), frozenset([1])}


def test_a_file_that_changes_is_tried_again(models, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "wsrl.pipelines.stages.checked", lambda *_: InputError("x", "changed while it was read", "wait")
    )
    with monkeypatch.context() as context:
        context.setattr("wsrl.pipelines.stages.file_stat", lambda *_: None)
        with pytest.raises(InputError, match=r"no checkpoint could be used .*changed while it was read"):
            piped([models], tmp_path / "out", tmp_path / "notes")
    monkeypatch.undo()
    changes, _ = piped([models], tmp_path / "out", tmp_path / "notes")
    assert (changes.embedded, changes.problems) == (3, [])


def test_another_encoder_and_wrong_options_are_told_in_one_line(models, tmp_path, capsys):
    out = str(tmp_path / "out")
    parts.write_run(out, "0" * 64, "")
    assert main([str(models), "--out", out]) == 1
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "new")]) == 1
    assert main([str(models), "--out", str(tmp_path / "new"), "--batch", "0"]) == 1
    assert main([str(models), "--out", "gs://bucket/folder"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].rpartition(";")[0] for line in lines] == [
        lines[0].partition(": ")[2].rpartition(";")[0],
        f"{tmp_path / 'nowhere'}: is not there",
        "--batch: 0 is too small",
        "--index: is missing, and --out is no folder",
    ]
    assert "holds vectors of the encoder 000000000000" in lines[0] and not (tmp_path / "new").exists()


def test_a_damaged_part_is_named_and_made_again(models, tmp_path):
    out = tmp_path / "out"
    piped([models], out, tmp_path / "notes", batch=1)
    damaged = Path(parts.find_parts(str(out), parts.VECTORS)[0])
    damaged.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=f"{damaged.name}: damaged .*; delete it and run the command again"):
        parts.read_keys(str(damaged))
    changes, embedded = piped([models], out, tmp_path / "notes", batch=1)
    assert (len(embedded), changes.unchanged, changes.problems) == (4, 3, [])


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_an_index_in_a_vector_store(models, tmp_path, kind):
    pytest.importorskip({"milvus": "pymilvus", "qdrant": "qdrant_client"}[kind], reason=f"needs the extra {kind}")
    address = f"{kind}://{tmp_path}/zoo.db"
    for gone, told in ((None, (3, 0, 0)), ("b/c.safetensors", (0, 2, 1))):
        if gone:
            (models / gone).unlink()
        index = run([str(models)], str(tmp_path / "out"), address, Make(tmp_path / "notes"), 2, OPTIONS)
        assert (index.changes.embedded, index.changes.unchanged, index.changes.removed) == told
        assert len(index) == sum(told[:2]) and index.search(index.ids[0], 1)[0].same_weights
        index.close()


def write_hub(folder):
    """Four models: two of the same weights, one of others, one whose header is broken."""
    models = {f"{owner}/{name}": folder / owner / name for owner, name in
              (("me", "vit-a"), ("me", "vit-b"), ("you", "vit-c"), ("you", "broken"))}  # fmt: skip
    for seed, path in enumerate(models.values()):
        path.mkdir(parents=True)
        rng = np.random.default_rng(seed // 2)
        tensors = {"0.weight": rng.normal(size=(700, 500)), "2.weight": rng.normal(size=(10, 700))}
        tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        safetensors.numpy.save_file(tensors, path / "model.safetensors")
        (path / "config.json").write_text('{"model_type": "mlp"}')
        (path / "README.md").write_text(f"model {seed}")
    broken = models["you/broken"] / "model.safetensors"
    broken.write_bytes(broken.read_bytes() + b"more")
    return models


def pipe_hub(address, sources, tmp_path):
    """Runs the command in a process that takes the address for the hub's; returns what it prints."""
    command = [sys.executable, "-m", "wsrl.pipelines.beam", *sources, "--out", tmp_path / "out", *OPTIONS]
    done = subprocess.run(
        list(map(str, command)), env=environment(address, tmp_path / "cache"), capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("ranges", [True, False])
def test_models_of_a_hub(tmp_path, ranges):
    models = write_hub(tmp_path / "hub")
    with serving(models, ranges) as address:
        done = pipe_hub(address, ["hf://*/vit-*", "hf://you/broken", "hf://me/gated"], tmp_path)
        sent = {path: size for path, size in Hub.sent.items() if path.endswith(".safetensors")}
        whole = models["me/vit-a"].joinpath("model.safetensors").stat().st_size
        fetched = {path.split("/")[2] for path, size in sent.items() if size >= whole}
        # one of the two of the same weights; the broken one is known from its header
        assert fetched == ({"vit-a", "vit-c"} if ranges else {"vit-a", "vit-c", "broken"})
        assert "hf://me/gated: is gated" in done.stderr
        assert "hf://you/broken: 4 bytes after its last tensor belong to none" in done.stderr
        index = Index.open(tmp_path / "out" / "index")
        assert sorted(index.ids) == ["hf://me/vit-a", "hf://me/vit-b", "hf://you/vit-c"]
        about = index.metadata("hf://me/vit-b")
        assert about["license"] == "mit" and len(str(about["revision"])) == 40
        if ranges:
            Hub.sent.clear()
            Hub.requested.clear()
            done = pipe_hub(address, ["hf://*/vit-*"], tmp_path)
            assert "0 embedded, 3 unchanged" in done.stdout
            assert Hub.sent == {} and Hub.requested == ["/api/models"]  # commits are known from the list


@pytest.mark.parametrize("name", ["hf://me*", "hf://*/*?author=me", "hf://*/*?limit=x", "hf://a/b/*"])
def test_filters_that_are_none(name, tmp_path, capsys):
    assert main([name, "--out", str(tmp_path / "out"), *OPTIONS]) == 1
    error = capsys.readouterr().err
    assert "hf://owner" in error and len([line for line in error.splitlines() if line.startswith("error")]) == 1


def test_a_header_comes_by_ranges(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    many = {f"layer.{number}.weight": np.zeros((3, number + 1), np.float32) for number in range(3000)}
    safetensors.numpy.save_file(many, folder / "a.safetensors")
    size = (folder / "a.safetensors").stat().st_size
    with serving({"me/a": folder}) as address:
        url = f"{address}/me/a/resolve/main/a.safetensors"
        tensors = remote_header(url, size, "a.safetensors")
        assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in many.items()}
        assert sum(Hub.sent.values()) < 400_000 < size and len(Hub.requested) == 2
        assert remote_header(f"{address}/me/b/resolve/main/a.safetensors", size, "a") is None
        Hub.ranges = False
        assert remote_header(url, size, "a.safetensors") is None
    assert remote_header(url, size, "a.safetensors") is None  # nobody answers
