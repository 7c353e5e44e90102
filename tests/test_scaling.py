import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.tables.resampling import measure_spread, resample
from experiments.tables.scaling import (
    Models,
    main,
    quality_rows,
    read_npz,
    read_workdir,
)
from wsrl.search.nearest import NearestNeighbors
from wsrl.zoo.manifest import Record, append_records

DIM = 8


def nested(tasks: int, lineages: int, models: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors around lineages around tasks, with both labels."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(tasks), lineages * models)
    lineage = np.repeat(np.arange(tasks * lineages), models)
    scale = np.array([3, 2, 1, 1, 1, 0, 0, 0])  # the last three axes stay empty
    vectors = np.array([0, 0, 0, 0, 2.0, 0, 0, 0]) + (rng.normal(size=(tasks, DIM)) * scale)[task] * 0.5
    vectors += (
        rng.normal(size=(tasks * lineages, DIM))[lineage] * scale * 0.2 + rng.normal(size=(len(task), DIM)) * 0.05
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), task, lineage


def similarities(vectors: np.ndarray, task: np.ndarray, lineage: np.ndarray) -> list[float]:
    """Mean cosine similarity within lineages, within tasks and between tasks."""
    product = vectors @ vectors.T
    lineages, tasks = (label[:, None] == label for label in (lineage, task))
    off = ~np.eye(len(vectors), dtype=bool)
    return [float(product[pairs].mean()) for pairs in (lineages & off, tasks & ~lineages, ~tasks)]


def test_resampled_vectors_keep_the_spread():
    vectors, task, lineage = nested(60, 5, 4)
    spread = measure_spread(vectors, task, lineage)
    assert (spread.models_per_lineage, spread.lineages_per_task) == (4, 5)
    deviations = vectors - np.stack([vectors[lineage == label].mean(axis=0) for label in lineage])
    expected = deviations.T @ deviations / (len(vectors) - 300)
    np.testing.assert_allclose(spread.models.T @ spread.models, expected, atol=1e-6)
    drawn = resample(spread, 1200, np.random.default_rng(1))
    assert drawn.shape == (1200, DIM) and drawn.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-5)
    _, _, between = similarities(vectors, task, lineage)
    product = drawn.astype(float) @ drawn.T
    assert abs(product.mean() - between) < 0.1
    nearest, real = (np.sort(p - 2 * np.eye(1200), axis=1)[:, -3:].mean() for p in (product, vectors @ vectors.T))
    assert abs(nearest - real) < 0.02  # the others of a lineage
    again = resample(spread, 1200, np.random.default_rng(1))
    np.testing.assert_array_equal(drawn, again)


def test_without_labels_the_covariance_is_kept():
    vectors = nested(200, 1, 1)[0]
    spread = measure_spread(vectors, np.arange(200), np.arange(200))
    np.testing.assert_allclose(spread.tasks.T @ spread.tasks, np.cov(vectors.T), atol=1e-5)
    assert not spread.models.any() and not spread.lineages.any()
    assert resample(spread, 1, np.random.default_rng(0)).shape == (1, DIM)


def models(tasks: int = 12, **changes) -> Models:
    vectors, task, lineage = nested(tasks, 5, 4)
    split = np.where(task < tasks // 2, "train", "test")
    made = Models.of(vectors, [str(t) for t in task], [str(label) for label in lineage], list(split))
    return dataclasses.replace(made, **changes)


def test_unseen_are_test_models_of_tasks_that_no_other_split_has():
    made = Models.of(np.eye(4), ["a", "a", "b", "b"], None, ["train", "test", "test", "test"])
    assert made.unseen.tolist() == [False, False, True, True]
    assert Models.of(np.eye(2), None, None, None).unseen.all()


def test_quality_grows_with_the_gallery_and_leaves_lineages_out():
    rows = quality_rows(models(40), 200, 0)
    assert [row["models"] for row in rows] == [100, 200, 400, 800]
    assert rows[-1]["answerable"] == 1 and rows[-1]["best possible P@10"] == 1
    found = [row["P@10"].value for row in rows]
    assert found[0] < found[-1] and all(row["P@10"].low < row["P@10"].high for row in rows)
    alone = models(40)
    alone = dataclasses.replace(alone, lineage=alone.task)  # all that could answer is of the query's lineage
    row = quality_rows(alone, 200, 0)[-1]
    assert row["answerable"] == 0 and "P@10" not in row and row["best possible P@10"] is None


def write_npz(path: Path, **changes) -> Path:
    zoo = models()
    split = np.where(zoo.unseen, "test", "train")
    arrays = {"embeddings": zoo.embeddings, "task": zoo.task.astype(str), "lineage": zoo.lineage, "split": split}
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # else columns would be cut to it
    path = write_npz(tmp_path / "vectors.npz")
    assert main([f"--embeddings={path}", f"--workdir={tmp_path}", "--queries=100"]) == 0
    with open(tmp_path / "tables" / "scaling_quality.csv", newline="") as file:
        assert [row["models"] for row in csv.DictReader(file)] == ["120", "240"]
    assert {file.name for file in (tmp_path / "tables").iterdir()} == {
        f"scaling_quality.{kind}" for kind in ("csv", "json", "svg")
    }
    assert "Quality by size of the zoo" in (tmp_path / "tables.html").read_text()
    assert "answerable" in capsys.readouterr().out


def test_reads_a_run(tmp_path, capsys):
    zoo = models()
    ids = [f"m{row}" for row in range(len(zoo.embeddings))]
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "weights").write_bytes(b"")
    keys = dict(path="weights", dataset="d", architecture="mlp", activation="relu", seed=0, parent=None, step=1)
    append_records(
        tmp_path / "zoo",
        [
            Record(
                id=name,
                task=f"t{zoo.task[row]}",
                accuracy=0.5,
                split="test" if zoo.unseen[row] else "train",
                extra={"lineage": f"l{zoo.lineage[row]}"},
                **keys,
            )
            for row, name in reversed(list(enumerate(ids)))
        ],
    )
    (tmp_path / "config.json").write_text(json.dumps({"zoo": {"dir": ""}, "seed": 0}))
    NearestNeighbors.build(zoo.embeddings, ids).save(tmp_path / "index")
    read = read_workdir(tmp_path)
    np.testing.assert_allclose(read.embeddings, zoo.embeddings, atol=1e-6)
    np.testing.assert_array_equal(read.unseen, zoo.unseen)
    for label in ("task", "lineage"):
        ours, theirs = getattr(read, label), getattr(zoo, label)
        np.testing.assert_array_equal(ours[:, None] == ours, theirs[:, None] == theirs)
    assert main([f"--workdir={tmp_path}"]) == 0
    assert "answerable" in capsys.readouterr().out
    (tmp_path / "config.json").write_text("{")
    assert main([f"--workdir={tmp_path}"]) == 1
    (tmp_path / "config.json").write_text(json.dumps({"zoo": {"dir": ""}, "seed": 0}))
    NearestNeighbors.build(zoo.embeddings[:2], ["m0", "stranger"]).save(tmp_path / "index")
    assert main([f"--workdir={tmp_path}"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "holds no run" in errors[0] and "'stranger'" in errors[1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"embeddings": None}, "no `embeddings`"),
        ({"embeddings": np.zeros((3, 2), int)}, "no `embeddings`"),
        ({"task": np.zeros(3)}, "task of shape"),
        ({"embeddings": np.full((240, 4), np.nan)}, "not finite"),
        ({"task": np.array([{}] * 240, object)}, "cannot be read"),
    ],
)
def test_refuses_files_of_other_content(tmp_path, capsys, changes, reason):
    path = write_npz(tmp_path / "vectors.npz", **changes)
    assert main([f"--embeddings={path}"]) == 1
    error = capsys.readouterr().err
    assert reason in error and error.startswith("error: ") and error.count("\n") == 1


def test_refuses_bad_arguments(tmp_path, capsys):
    path = write_npz(tmp_path / "vectors.npz")
    (tmp_path / "broken.npz").write_bytes(path.read_bytes()[:100])
    for arguments in (
        [],
        [f"--workdir={tmp_path}"],
        ["--embeddings=nowhere.npz"],
        [f"--embeddings={tmp_path / 'broken.npz'}"],
        [f"--embeddings={path}", "--queries=5"],
        [f"--embeddings={path}", "--seed=-1"],
    ):
        assert main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert read_npz(path).labeled and not list(tmp_path.glob("tables*"))
