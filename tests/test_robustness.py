"""Changed copies are embedded and scored on a zoo of a few hardly trained networks."""

import csv
import json
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
import pytest
from evaluation_records import make_record

from configs import tiny
from experiments.tables.finished_run import FinishedRun, load_run
from experiments.tables.robustness import CHANGES, TUNED, changed_copies, fine_tuned, gallery_places, main, score
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import save_encoder
from wsrl.errors import InputError
from wsrl.evaluation.relevance import Relevance
from wsrl.training.discriminant_analysis import fit_readout
from wsrl.training.fit import init_params, make_encoder
from wsrl.training.initial_probes import natural_inputs
from wsrl.training.response_cache import sweep_zoo
from wsrl.zoo.families import MAIN, Family
from wsrl.zoo.load import StoredCheckpoints
from wsrl.zoo.manifest import read_manifest
from wsrl.zoo.models import MLP
from wsrl.zoo.tasks import load_tasks
from wsrl.zoo.training import train_zoo


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A catalogue of one small architecture."""
    model = MLP("relu", widths=(6,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MAIN, "mlp", Family((model,), (model,)))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, small) -> FinishedRun:
    """Two encoders, fitted in closed form, of a zoo of perceptrons."""
    workdir = tmp_path_factory.mktemp("robustness")
    config: Any = tiny.get_config()
    config.zoo.update(families="mlp", image_size=8, num_tasks=6, num_validation_tasks=1, num_test_tasks=2, runs_test=4)
    config.zoo.update(num_seen_tasks=1, runs_seen=1, steps=24, checkpoints=2, num_children=1, num_copies=2)
    config.encoder.update(probes=16, gradient_probes=8, rank=8, dim=16, slack=64.0)
    settings = json.loads(json.dumps(config.to_dict()))
    (workdir / "config.json").write_text(json.dumps(settings))
    train_zoo(config.zoo, workdir / "zoo", config.seed)
    records, _ = read_manifest(workdir / "zoo")
    sets, tasks = load_tasks(config.zoo, config.seed)
    inputs = [natural_inputs(sets, tasks, config.encoder.probes, seed) for seed in range(2)]
    embedder = Embedder(make_encoder(config.encoder, inputs[0].shape[1:]))
    start = init_params(embedder.encoder, inputs[0], 0)
    params = [start | {"inputs": own} for own in inputs]
    directories = [workdir / f"encoder_{seed}" for seed in range(2)]
    for directory, own in zip(directories, params, strict=True):
        save_encoder(directory, embedder.encoder, own)
    sweep_zoo(embedder, params, workdir / "zoo", records, config.encoder, directories)
    found = load_run(workdir)
    for seed, directory in enumerate(directories):
        fitted = fit_readout(
            *(embedder.encoder, params[seed], found.swept[seed], found.examples, found.split["train"]), shrinkage=1.0
        )
        save_encoder(directory, embedder.encoder, fitted)
    return load_run(workdir)


def test_the_gallery_holds_the_last_checkpoint_of_each_run_and_no_copies():
    records = [
        make_record(i, "task", step=step, run=name)
        for i, (name, step) in enumerate([("one", 10), ("two", 20), ("one", 20), ("two", 10), ("three", 5)])
    ]
    records.append(make_record(5, "task", step=20, run="one-pruned", copy="pruned"))
    assert gallery_places(records, np.arange(6)).tolist() == [1, 2, 4]
    assert gallery_places(records, np.array([0, 3, 5])).tolist() == [0, 3]


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_small_and_fixed_by_the_seed(run, name):
    place = int(run.split["test"][0])
    (found,), (again,), (other,) = (changed_copies(run, [place], name, seed) for seed in (0, 0, 1))
    original = StoredCheckpoints(run.zoo, run.records)[place]
    assert found.metadata == original.metadata and found.tensors.keys() == original.tensors.keys()
    pairs = [(np.asarray(found.tensors[key]), np.asarray(tensor)) for key, tensor in original.tensors.items()]
    assert all(own.dtype == np.float32 and own.shape == tensor.shape for own, tensor in pairs)
    assert any((own != tensor).any() for own, tensor in pairs)
    if name != "random symmetry":
        assert all(np.abs(own - tensor).max() <= 0.5 * np.abs(tensor).max() + 1e-6 for own, tensor in pairs)

    def equal(checkpoint):
        return all(np.array_equal(found.tensors[key], tensor) for key, tensor in checkpoint.tensors.items())

    assert equal(again) and equal(other) == (name not in ("random symmetry", "noise of 1 %"))


def test_fine_tuning_goes_a_few_steps_down_the_loss_of_the_network_s_own_task(run):
    places = gallery_places(run.records, run.split["test"])[:4].tolist()
    stored = StoredCheckpoints(run.zoo, run.records)
    for place, tuned in zip(places, fine_tuned(run, places, seed=0), strict=True):
        original = stored[place].tensors
        assert tuned.tensors.keys() == original.keys() and tuned.metadata == stored[place].metadata
        change = max(np.abs(tuned.tensors[key] - np.asarray(original[key])).max() for key in original)
        assert 1e-3 < change < 2e-2  # ten steps of Adam, each of 1e-3 at most


def test_fine_tuning_another_zoo_than_the_configuration_s_is_refused(run):
    config: Any = ml_collections.ConfigDict(json.loads(json.dumps(run.config.to_dict())))
    config.zoo.runs_train = 3
    config.zoo.families = "cnn_gap"
    config.zoo.test_families = ""
    other = FinishedRun(run.workdir, run.zoo, config, run.records, run.examples, run.split, run.encoders, run.swept)
    with pytest.raises(InputError, match="no recipe"):
        fine_tuned(other, run.split["test"][:1].tolist(), seed=0)


def test_scores_of_copies_that_stay_and_of_copies_that_move():
    records = [make_record(i, f"task-{i // 3}", run=f"run-{i}", lineage=f"run-{i}") for i in range(6)]
    gallery = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    gallery[3:] += 5
    drawn = np.array([0, 4])
    relevance = Relevance.of(records)
    stayed: Any = score("int8", relevance, [gallery] * 2, drawn, [gallery[drawn]] * 2, 20, 0)
    assert stayed["original first"].value == 1 and stayed["cosine"].value == pytest.approx(1)
    assert stayed["largest change"] == 0 and stayed["same"] == "yes" and stayed["target"] == 0.99
    assert stayed["P@1 before"] == stayed["P@1 after"] and stayed["queries"] == 2
    swapped: Any = score("float16", relevance, [gallery] * 2, drawn, [gallery[drawn[::-1]], gallery[drawn]], 20, 0)
    assert swapped["original first"].value == 0.5 and swapped["target"] is None
    assert swapped["largest change"] > 0.1 and swapped["same"] == "no"
    alone: Any = score("int8", Relevance.of(records[:1]), [gallery[:1]], np.array([0]), [gallery[:1]], 20, 0)
    assert alone["original first"].value == 1 and "P@1 after" not in alone


def test_the_table_of_a_run(run, capsys):
    assert main([f"--workdir={run.workdir}", "--models=6", "--resamples=20"]) == 0
    capsys.readouterr()
    with open(run.workdir / "tables" / "robustness.csv", newline="") as file:
        rows = {row["change"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*CHANGES, TUNED]
    assert all(row["queries"] == "6" for row in rows.values())
    symmetry = rows["random symmetry"]
    assert float(symmetry["original first"]) == 1 and float(symmetry["largest change"]) < 1e-3
    assert symmetry["same"] == "yes"
    assert float(rows["float16"]["cosine"]) > 0.999 > float(rows["half of the weights pruned"]["cosine"])
    assert (run.workdir / "tables" / "robustness.svg").stat().st_size > 1000


@pytest.mark.parametrize(("arguments", "told"), [([], "holds no run"), (["--models=0"], "--models: 0 is too small")])
def test_bad_input_ends_with_one_line(tmp_path, capsys, arguments, told):
    assert main([f"--workdir={tmp_path}", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error and error.count("\n") == 1
