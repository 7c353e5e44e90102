"""A table of confusion from files whose relation a manifest states."""

import json
from pathlib import Path

import pytest
import safetensors.numpy
from networks import draw_network

from experiments.tables.labeled_files import chosen, labeled, main
from wsrl.zoo.copies import quantize


@pytest.fixture
def files(tmp_path):
    """Two networks, one of them also in eight bits, with a manifest."""
    lines = []
    for seed, change, precision in ((0, dict, "fp32"), (0, quantize, "int8"), (1, dict, "fp32")):
        network, _ = draw_network("mlp", 0, seed)
        name = f"{seed}-{precision}.safetensors"
        safetensors.numpy.save_file(change(dict(network.tensors)), tmp_path / name)
        names = {"net": f"n{seed}", "lineage": f"l{seed}", "precision": precision, "sha256": name}
        lines.append(json.dumps({"file": name, **names}))
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_pairs_and_their_labels():
    rows = [{"net": n, "lineage": n[0], "precision": "fp32"} for n in ("a1", "a2", "b1", "c1")]
    pairs = list(chosen(rows, 0))
    assert [labeled(*pair) for pair in pairs] == ["one lineage, other weights", "two lineages"]
    assert labeled(rows[0], rows[0] | {"precision": "int8"}) == "same weights, another precision"


def test_the_table_counts_kinds(files, capsys):
    arguments = [f"--workdir={files / 'run'}", f"--files={files}", f"--manifest={files / 'labels.jsonl'}"]
    assert main(arguments) == 0
    table = (files / "run" / "tables" / "labeled_files.csv").read_text()
    assert "same_precision" in table or "same precision" in table
    assert "precision 1.000, recall 1.000" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{", '{"file": "a"}'])
def test_a_bad_manifest_ends_with_one_line(tmp_path, capsys, content):
    manifest = Path(tmp_path / "labels.jsonl")
    if content is not None:
        manifest.write_text(content)
    assert main([f"--workdir={tmp_path}", f"--files={tmp_path}", f"--manifest={manifest}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
