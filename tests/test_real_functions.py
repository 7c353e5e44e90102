"""The table of real classifiers, on networks of two sets of labels in four families."""

import csv
import json
from collections import Counter

import numpy as np
from test_forward import node, saved, weights

from experiments.tables.real_functions import main, shape_similarity


def classifier(folder, labels, family):
    """The largest of some linear maps of the image, which the labels choose, in one of two forms."""
    folder.mkdir()
    maps = weights(12, 1, 8, 8, seed=labels)
    if family:
        tensors, nodes = {"a": maps}, [node("Conv", "x a", "1"), node("Relu", "1", "2"), node("Flatten", "2", "y")]
    else:
        order = np.random.default_rng(0).permutation(12)
        tensors = {"a": maps[order].reshape(12, 64).T.copy(), "two": np.float32([2.0])}
        nodes = [
            node("Flatten", "x", "1"),
            node("MatMul", "1 a", "2"),
            node("Relu", "2", "3"),
            node("Mul", "3 two", "y"),
        ]
    return saved(folder, tensors, nodes)


def test_networks_of_one_set_of_labels_find_one_another(tmp_path):
    lines = []
    for labels in range(2):
        for family in range(2):
            path = classifier(tmp_path / f"{labels}{family}", labels, family)
            lines.append({"file": str(path.relative_to(tmp_path)), "labels": f"l{labels}", "family": f"f{family}"})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["--zoo", str(tmp_path), "--workdir", str(tmp_path / "run")]) == 0
    with (tmp_path / "run" / "tables" / "real_functions.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows["function"]["P@1"]) == 1 and float(rows["chance"]["P@1"]) == 0.5


def test_a_zoo_without_such_networks_is_refused(tmp_path, capsys):
    path = classifier(tmp_path / "one", 0, 0)
    line = {"file": str(path), "task": "a", "fine": "b", "family": "f"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
    assert main(["--zoo", str(tmp_path)]) == 1
    assert "has its labels in another family" in capsys.readouterr().err
    (tmp_path / "manifest.jsonl").write_text("{}")
    assert main(["--zoo", str(tmp_path)]) == 1


def test_shapes_are_compared_as_sets():
    shapes = [Counter({(3, 4): 2}), Counter({(3, 4): 1, (5,): 1}), Counter()]
    np.testing.assert_allclose(shape_similarity(shapes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
