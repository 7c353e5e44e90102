"""Leaving families and data sets out, on made-up sweeps of networks whose responses tell their tasks."""

import csv
import functools
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import pytest
from evaluation_records import make_record

from experiments.job.records import indices_by_split, make_examples
from experiments.tables import leave_one_out
from experiments.tables.finished_run import FinishedRun
from experiments.tables.leave_one_out import components, dataset_folds, family_folds, main, usable
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import Swept
from wsrl.training.fit import init_params

DATASETS = {"a": "train", "a+b": "train", "teacher/0/c": "train", "d": "validation", "e": "test"}
FAMILIES = ("mlp", "vit")
ENCODER = ResponseEncoder(probes=32, input_shape=(3, 3, 1), dim=8, rank=12, chunk=2)


@functools.cache
def parameters() -> Any:
    return init_params(ENCODER, np.zeros((32, 3, 3, 1), np.float32), 0)


def made_up_run(datasets=DATASETS, families=FAMILIES) -> FinishedRun:
    """Two tasks a data set, and of each task four networks a family; the last one of all comes from the first one."""
    records = []
    for dataset, split in datasets.items():
        for task in (f"{dataset}.one", f"{dataset}.two"):
            for family in families:
                for _ in range(4):
                    name = f"run-{len(records)}"
                    keys = {"run": name, "lineage": name, "class_order": list(range(4))}
                    records.append(make_record(len(records), task, family, dataset=dataset, split=split, **keys))
    last_trained = max(i for i, record in enumerate(records) if record.split == "train")
    records[last_trained].extra["lineage"] = "run-0"
    examples, rng = make_examples(records), np.random.default_rng(0)
    swept = []
    for _ in range(2):
        of_task = rng.normal(size=(examples.task.max() + 1, 4, 32))
        logits = of_task[examples.task] + rng.normal(0, 0.3, (len(records), 4, 32))
        templates = np.zeros((len(records), 4, 9), np.float32)
        swept.append(Swept(logits.astype(np.float32), templates, np.ones(logits.shape[:2], np.float32)))
    config = ml_collections.ConfigDict({"encoder": {"shrinkage": 1.0}})
    encoders = [(ENCODER, parameters())] * 2
    split = indices_by_split(records)
    return FinishedRun(Path("run"), Path("zoo"), config, records, examples, split, encoders, swept)


@pytest.fixture(scope="module")
def run():
    return made_up_run()


def test_components_are_the_sets_that_images_come_from():
    assert components("mnist") == ("mnist",)
    assert components("keel/letter+doodle3.npz") == ("keel/letter", "doodle3.npz")
    assert components("teacher/12/keel/letter") == ("keel/letter",)
    assert components("teacher/0/teacher/1/x+y") == ("x", "y")


def test_a_family_is_dropped_from_training_and_asks_for_unseen_tasks(run):
    folds = family_folds(run)
    assert [fold.name for fold in folds] == list(FAMILIES)
    for fold in folds:
        assert {run.records[i].architecture for i in fold.dropped} == {fold.name}
        assert {run.records[i].split for i in fold.dropped} == {"train"} and len(fold.dropped) == 24
        assert fold.gallery.tolist() == run.unseen.tolist()
        assert {run.records[i].architecture for i in fold.gallery[fold.queries]} == {fold.name}


def test_a_data_set_is_dropped_with_mixtures_teachers_and_lineages(run):
    folds = {fold.name: fold for fold in dataset_folds(run)}
    assert list(folds) == ["a", "b", "c"]
    asked = {name: {run.records[i].dataset for i in fold.gallery[fold.queries]} for name, fold in folds.items()}
    assert asked == {"a": {"a", "a+b"}, "b": {"a+b"}, "c": {"teacher/0/c"}}
    dropped = {name: {run.records[i].dataset for i in fold.dropped} for name, fold in folds.items()}
    assert dropped == {"a": {"a", "a+b", "teacher/0/c"}, "b": {"a+b"}, "c": {"a", "teacher/0/c"}}
    assert len(folds["a"].dropped) == 33 and len(folds["c"].dropped) == 17  # a child, a parent
    for fold in folds.values():
        assert len(np.unique(fold.gallery)) == len(fold.gallery)
        assert {run.records[i].dataset for i in fold.gallery[~fold.queries]} == {"e"}


def test_folds_that_leave_a_single_task_are_not_usable():
    single = made_up_run({"a": "train", "d": "validation", "e": "test"}, ("mlp",))
    assert not usable(single, family_folds(single)) and not usable(single, dataset_folds(single))


def test_tables_are_written_and_what_is_left_out_is_still_found(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(leave_one_out, "load_run", lambda workdir: run)
    assert main([f"--workdir={tmp_path}", "--resamples=50"]) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    assert {name for name in first if name.endswith(".csv")} == {"left_out_families.csv", "left_out_datasets.csv"}
    with open(tmp_path / "tables" / "left_out_families.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["without"], row["gallery"]) for row in rows] == [(f, g) for f in FAMILIES for g in ("same", "cross")]
    for row in rows:
        assert row["queries"] == "8" and row["networks less"] == "24"
        assert float(row["P@1 all"]) > 0.8 and float(row["mAP left out"]) > 0.7
        assert float(row["mAP left out_low"]) <= float(row["mAP left out"]) <= float(row["mAP left out_high"])
    assert any(row["mAP left out"] != row["mAP all"] for row in rows)
    assert main([f"--workdir={tmp_path}", "--resamples=50"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()} == first
    capsys.readouterr()


def test_a_folder_without_a_run_is_told_of_in_one_line(tmp_path, capsys):
    assert main([f"--workdir={tmp_path}"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path}: holds no run") and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_with_nothing_to_leave_out_is_told_of_in_one_line(tmp_path, monkeypatch, capsys):
    single = made_up_run({"a": "train", "d": "validation", "e": "test"}, ("mlp",))
    monkeypatch.setattr(leave_one_out, "load_run", lambda workdir: single)
    assert main([f"--workdir={tmp_path}"]) == 1
    told = capsys.readouterr().err
    assert "one family of networks, on one data set" in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())
