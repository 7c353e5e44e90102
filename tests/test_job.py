"""The main job from end to end, with the tiny configuration and through the command line."""

import csv
import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from experiments.job.starts import probe_models
from experiments.release import release
from experiments.tables import finetuning
from experiments.tables.finished_run import load_run
from wsrl.encoder.dataset_encoder import load_dataset_encoder
from wsrl.encoder.export import encoder_hash, load_encoder
from wsrl.evaluation.ranking import METRICS
from wsrl.recommendation.start_score import load_start_score
from wsrl.search.nearest import NearestNeighbors
from wsrl.zoo.bank import load_zoo_images
from wsrl.zoo.manifest import MANIFEST, read_manifest

ROOT = Path(__file__).parents[1]
COMMAND = ["python", "-m", "experiments.main", "--config=configs/tiny.py"]
METHODS = {"wsrl", "random", "metadata", "weight statistics", "raw weights", "synchronous GNN"}
STAGES = {"zoo", "sweeps", "encoders", "data-set encoders", "starts", "baselines", "evaluation", "index", "report"}
QUICK = ["--config.encoder.seeds=1", "--config.encoder.steps=10", "--config.encoder.validate_every=10"]
QUICK += ["--config.gnn.steps=0", "--config.evaluation.resamples=10"]


def start(workdir: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The main job as a process."""
    command = [sys.executable, *COMMAND[1:], f"--workdir={workdir}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, **options)


def finish(workdir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    with start(workdir, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@dataclass(frozen=True)
class Tiny:
    """A run that was interrupted while the zoo was trained, and then finished."""

    workdir: Path
    interrupted: str  # the last line of what was told then
    status: int  # the exit status then
    held: dict[Path, tuple[int, bytes]]  # the zoo's checkpoints then
    results: dict[str, Any]


def contents(directory: Path, pattern: str) -> dict[Path, tuple[int, bytes]]:
    """Times of change and contents of files."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(directory.rglob(pattern))}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    workdir = tmp_path_factory.mktemp("job") / "tiny"
    told = workdir.with_suffix(".stderr")
    with open(told, "w") as stderr, start(workdir, stderr=stderr, stdout=subprocess.DEVNULL) as process:
        manifest = workdir / "zoo" / MANIFEST
        while not manifest.exists() and process.poll() is None:
            time.sleep(0.05)
        recorded = {workdir / "zoo" / record.path for record in read_manifest(workdir / "zoo")[0]}
        process.send_signal(signal.SIGINT)
        process.wait()
    held = contents(workdir / "zoo", "*.safetensors")
    held = {path: held[path] for path in recorded}
    done = finish(workdir)
    assert done.returncode == 0, done.stderr
    results = json.loads((workdir / "results.json").read_text())
    return Tiny(workdir, told.read_text().splitlines()[-1], process.returncode, held, results)


def test_an_interrupted_run_goes_on(tiny: Tiny):
    assert tiny.interrupted == "interrupted; the same command goes on from here"
    assert tiny.status == 1
    now = contents(tiny.workdir / "zoo", "*.safetensors")
    assert {path: now[path] for path in tiny.held} == tiny.held
    assert 0 < len(tiny.held) < len(now) == tiny.results["zoo"]["models"]


def test_results_have_the_promised_structure(tiny: Tiny):
    results = tiny.results
    for form in ("retrieval", "retrieval_neighborhoods", "retrieval_shared_order"):
        assert set(results[form]) == METHODS
        for halves in results[form].values():
            assert set(halves) == {"seen", "unseen"}
            for galleries in halves.values():
                assert set(galleries) == {"same", "cross", "any"}
                for scores in galleries.values():
                    assert set(scores) == {*METRICS, "queries", "left_out", "precision_at_10_limit"}
                    for metric in METRICS:
                        check_interval(scores[metric])
    assert set(results["clustering"]) == METHODS
    assert set(results["seconds"]) == STAGES
    assert all(seconds >= 0 for seconds in results["seconds"].values())
    check_interval(results["accuracy_tau"], least=-1)
    assert 0 <= results["invariance_error"] < 1e-5


def check_interval(interval: dict[str, float], least: float = 0) -> None:
    assert set(interval) == {"value", "low", "high"}
    assert least <= interval["low"] <= interval["value"] <= interval["high"] <= 1


def test_counts_are_those_of_the_zoo(tiny: Tiny):
    records, problems = read_manifest(tiny.workdir / "zoo")
    tested = [record for record in records if record.split == "test"]
    train_tasks = {record.task for record in records if record.split == "train"}
    unseen = [record for record in tested if record.task not in train_tasks]
    assert (problems, tiny.results["zoo"]) == ([], {"models": len(records), "problems": 0})
    assert tiny.results["counts"]["models"] == len(tested)
    assert tiny.results["counts"]["unseen"]["models"] == len(unseen)
    assert tiny.results["counts"]["unseen"]["tasks"] == len({record.task for record in unseen}) == 4


@pytest.mark.parametrize("name", ["encoder_0", "encoder_1", "gnn_own", "gnn_shared"])
def test_training_leaves_its_curve_and_checkpoint(tiny: Tiny, name: str):
    directory = tiny.workdir / name
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert "validation" in rows[-1]
    assert [path.name for path in (directory / "checkpoints").iterdir()] == [str(len(rows))]
    assert list((directory / "tensorboard").glob("events.out.tfevents.*"))


def test_the_index_holds_the_zoo_and_fits_the_encoder(tiny: Tiny):
    encoder, params = load_encoder(tiny.workdir / "encoder_0")
    index = NearestNeighbors.load(tiny.workdir / "index", encoder_hash(encoder, params))
    assert index.ids == [record.id for record in read_manifest(tiny.workdir / "zoo")[0]]
    rows, similarity = index.search(index.vectors[:5], 3)
    np.testing.assert_allclose(similarity[:, 0], 1, atol=1e-5)
    assert rows.shape == (5, 3)


def test_a_finished_run_is_loaded_as_it_was_left(tiny: Tiny):
    run = load_run(tiny.workdir)
    encoder, params = run.encoders[0]
    vectors = jax.jit(partial(encoder.apply, method="embed"))({"params": params}, run.swept[0])
    index = NearestNeighbors.load(tiny.workdir / "index", encoder_hash(encoder, params))
    assert index.ids == [record.id for record in run.records]
    np.testing.assert_allclose(vectors, index.vectors, atol=1e-5)
    assert len(run.unseen) == tiny.results["counts"]["unseen"]["models"]


class Loads(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        places = [value or "" for name, value in attrs if name in ("src", "srcset") or (tag, name) == ("link", "href")]
        self.found += [place for place in places if not place.startswith("data:")]


def test_the_report_is_self_contained(tiny: Tiny):
    page = Loads()
    page.feed((tiny.workdir / "report.html").read_text())
    assert {"html", "script", "table"} <= page.tags
    assert page.found == []


def test_the_same_command_again_trains_nothing(tiny: Tiny):
    def snapshot() -> dict[Path, tuple[int, bytes]]:
        return contents(tiny.workdir / "zoo", "*.*") | contents(tiny.workdir, "metrics.jsonl")

    before = snapshot()
    done = finish(tiny.workdir)
    assert done.returncode == 0, done.stderr
    assert snapshot() == before
    again = json.loads((tiny.workdir / "results.json").read_text())
    assert {**again, "seconds": None, "compilations": None} == {**tiny.results, "seconds": None, "compilations": None}


def check_refused(done: subprocess.CompletedProcess[str], *named: str) -> None:
    """One line that names what is wrong, and a failing status."""
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in named), done.stderr


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--config.zoo.nonsense=1"], ["--config.zoo.nonsense", "no field"]),
        (["--config.zo.steps=1"], ["--config.zo.steps", "no field"]),
        (["--config.zoo.steps=many"], ["--config.zoo.steps=many"]),
        (["--config=configs/none.py"], ["configs/none.py"]),
        (["--config=configs/pretrain.py:nonsense"], ["pretrain.py:nonsense", "packaged"]),
        (["--nonsense"], ["nonsense"]),
        (["nonsense"], ["nonsense"]),
    ],
)
def test_a_wrong_command_line_is_refused(tmp_path: Path, arguments: list[str], named: list[str]):
    check_refused(finish(tmp_path / "run", *arguments), *named)
    assert not (tmp_path / "run").exists()


def test_a_missing_data_set_is_refused(tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    arguments = ["--config.zoo.datasets=nosuchset", f"--config.zoo.data_dir={data}"]
    check_refused(finish(tmp_path / "run", *arguments), "nosuchset", str(data))


def test_a_folder_without_a_zoo_is_refused(tmp_path: Path):
    check_refused(finish(tmp_path / "run", f"--config.zoo.dir={tmp_path}"), str(tmp_path / MANIFEST))


def test_a_folder_with_another_run_is_refused(tiny: Tiny):
    check_refused(finish(tiny.workdir, "--config.seed=1"), str(tiny.workdir / "config.json"), "--workdir")


def test_a_workdir_that_is_a_file_is_refused(tmp_path: Path):
    path = tmp_path / "run"
    path.touch()
    check_refused(finish(path), str(path))


def test_damaged_models_are_reported_and_left_out(tiny: Tiny, tmp_path: Path):
    zoo = tmp_path / "zoo"
    shutil.copytree(tiny.workdir / "zoo", zoo)
    kept = [record for record in read_manifest(zoo)[0] if record.architecture == "mlp"]  # the fewer, the faster
    missing, truncated, invalid, repeated = [record for record in kept if record.split == "train"][:4]
    (zoo / missing.path).unlink()
    (zoo / truncated.path).write_bytes((zoo / truncated.path).read_bytes()[:-10])
    tensors = safetensors.numpy.load_file(zoo / invalid.path)
    next(iter(tensors.values())).flat[0] = np.nan
    safetensors.numpy.save_file(tensors, zoo / invalid.path)
    lines = {json.loads(line)["id"]: line for line in (zoo / MANIFEST).read_text().splitlines()}
    told = [lines[record.id] for record in [*kept, repeated]]
    (zoo / MANIFEST).write_text("\n".join(told) + "\n")

    done = finish(tmp_path / "run", f"--config.zoo.dir={zoo}", *QUICK)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["zoo"] == {"models": len(kept) - 3, "problems": 4}
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(record.path in report for record in (missing, truncated, invalid))
    assert repeated.id in report
    assert not (tmp_path / "run" / "zoo").exists()


TABLES = {
    "ablations": {"change", "validation mAP", "mAP same", "mAP same_low", "mAP cross", "hubness"},
    "oracle": {"method", "gallery", "P@1", "mAP_high"},
    "accuracy": {"told from", "seen tasks", "unseen tasks_low"},
    "bare_files": {"encoder", "files", "queries", "gallery", "P@1", "mAP_low"},
    "fewer_sets": {"data sets", "networks", "validation", "test, of all sets"},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_made_from_a_finished_run(tiny: Tiny, name: str, monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module(f"experiments.tables.{name}")
    if name == "ablations":
        labels = ("the encoder that ships", "first-order read-out", "inputs of noise (one encoder seed)")
        labels += ("embeddings centered within each architecture of the gallery", "searched by neighborhoods of 5")
        labels += ("trained at all widths, networks of width 256 ask",)  # there are none
        labels += ("only relatives are positives", "one state a neuron in place of a map (one encoder seed)")
        changes = [change for change in module.CHANGES if change.label in labels]
        monkeypatch.setattr(module, "CHANGES", (*changes, module.Change("16 inputs", {"probes": 16, "steps": 0})))
    assert module.main([f"--workdir={tiny.workdir}"]) == 0
    with open(tiny.workdir / "tables" / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) >= TABLES[name]
    assert (tiny.workdir / "tables" / f"{name}.svg").read_text().startswith("<?xml")
    assert module.NAME in (tiny.workdir / "tables.html").read_text().lower()
    again = (tiny.workdir / "tables" / f"{name}.csv").read_bytes()
    assert module.main([f"--workdir={tiny.workdir}"]) == 0
    assert (tiny.workdir / "tables" / f"{name}.csv").read_bytes() == again


def test_accuracies_told_without_baselines_are_those_of_the_whole_table(tiny: Tiny):
    module = importlib.import_module("experiments.tables.accuracy")
    assert module.main([f"--workdir={tiny.workdir}"]) == 0
    assert module.main([f"--workdir={tiny.workdir}", "--without-baselines"]) == 0
    tables = [(tiny.workdir / "tables" / f"{name}.csv").read_text() for name in ("accuracy", "accuracy_wsrl")]
    whole, alone = (list(csv.DictReader(table.splitlines())) for table in tables)
    assert len(whole) == 6 and whole[:2] == alone


@pytest.mark.parametrize("name", [*(f"tables.{table}" for table in TABLES), "release"])
def test_tables_refuse_a_folder_without_a_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    module = importlib.import_module(f"experiments.{name}")
    assert module.main([f"--workdir={tmp_path}"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and str(tmp_path) in told[0] and "experiments.main" in told[0]


def test_fine_tuning_starts_from_the_models_of_a_run(tiny: Tiny, capsys: pytest.CaptureFixture[str]):
    asked = [f"--workdir={tiny.workdir}", "--tasks=1", "--models=5", "--seeds=1"]
    assert finetuning.main([*asked, "--held-out=10"]) == 0
    path = tiny.workdir / "tables" / "finetuning.csv"
    with open(path, newline="") as file:
        rows = {row["start"]: row for row in csv.DictReader(file)}
    told = re.findall(r"^ {4}(\S.*?) {2,}", finetuning.__doc__ or "", re.M)
    assert len(rows) == 12 and set(rows) == set(told)
    assert all(0 <= float(row["accuracy after 50"]) <= 1 for row in rows.values())
    assert float(rows["scratch"]["accuracy after 0"]) < 0.6
    kept = contents(tiny.workdir / "finetuning", "*.json")
    assert finetuning.main([*asked, "--held-out=10"]) == 0  # from what it kept
    named = f"--encoder={tiny.workdir / 'encoder_0'}"  # the one that the run's first seed is
    assert finetuning.main([*asked, "--held-out=10", named]) == 0
    assert (tiny.workdir / "tables" / "finetuning-encoder_0.csv").read_bytes() == path.read_bytes()
    assert contents(tiny.workdir / "finetuning", "*.json") == kept and len(kept) == 1
    capsys.readouterr()
    for bad in ("--held-out=100000", "--models=2"):  # both know the task
        assert finetuning.main([*asked, "--held-out=10", bad]) == 1
        assert f"error: {bad.partition('=')[0]}" in capsys.readouterr().err


def test_linear_probes_are_of_models_that_know_nothing_of_the_task(tiny: Tiny):
    run = load_run(tiny.workdir)
    config = run.config.copy_and_resolve_references()
    config.starts.update(models=4, tasks=8)
    images = load_zoo_images(config.zoo, config.seed)
    probed = probe_models(config, run.zoo, images, run.records, run.examples.task, run.split["train"])
    trained_on = {(run.examples.lineage[i], run.examples.task[i]) for i in range(len(run.records))}
    lineage = {record.id: own for record, own in zip(run.records, run.examples.lineage, strict=True)}
    assert probed.accuracy.shape == (len(probed.tasks), 4)
    for task, row in zip(probed.tasks, probed.accuracy, strict=True):
        known = [(lineage[record.id], task) in trained_on for record in probed.models.records]
        assert np.isnan(row).tolist() == known
    measured = probed.accuracy[np.isfinite(probed.accuracy)]
    assert np.isnan(probed.accuracy).any() and measured.min() >= 0 and 0.3 < measured.max() <= 1


def test_the_best_encoder_on_validation_is_released(tiny: Tiny, tmp_path: Path):
    size = release(tiny.workdir, "the command", tmp_path)
    assert size < 5_000_000
    made_by = json.loads((tmp_path / "made_by.json").read_text())
    assert made_by["command"] == "the command"
    assert made_by["seed"] == int(np.argmax(made_by["validation_map"]))
    encoder, params = load_encoder(tmp_path)
    original = load_encoder(tiny.workdir / f"encoder_{made_by['seed']}")
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), original[1])
    assert encoder_hash(encoder, params) == encoder_hash(original[0], rounded)
    load_dataset_encoder(tmp_path, encoder, params)  # fitted to this encoder, or it raises
    load_start_score(tmp_path, encoder_hash(encoder, params))
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())
