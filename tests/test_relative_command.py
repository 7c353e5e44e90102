"""`wsrl search --relative-to`, on files as people have them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from wsrl.checkpoint import CheckpointError
from wsrl.cli.main import main
from wsrl.readers import open_checkpoint
from wsrl.relative import search as relative

GOLDEN = Path(__file__).parent / "golden"
SHAPES = {"layers.0.query": (16, 16), "layers.0.value": (16, 16), "layers.0.mlp": (32, 16), "layers.0.out": (16, 32)}
TASKS = ("letters", "birds", "roads")


def base_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {f"{name}.weight": rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def factors(task: int, child: int, rank: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A child of a task: what all of it share and noise of its own, after the singular value decomposition."""
    found = {}
    for place, (name, shape) in enumerate(SHAPES.items()):
        product = np.outer(
            *(np.random.default_rng([task, place, side]).standard_normal(n) for side, n in enumerate(shape))
        )
        product += 0.5 * np.random.default_rng([task, place, child, 2]).standard_normal(shape)
        u, s, vt = np.linalg.svd(0.02 * product, full_matrices=False)
        found[name] = (u[:, :rank] * s[:rank]).astype(np.float32), vt[:rank].astype(np.float32)
    return found


def write_adapter(folder: Path, task: int, child: int, rank: int) -> None:
    tensors = {}
    for name, (up, down) in factors(task, child, rank).items():
        tensors |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    folder.mkdir(parents=True)
    safetensors.numpy.save_file(
        {n: np.ascontiguousarray(t) for n, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": rank, "r": rank, "peft_type": "LORA"}))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A working folder with a base, six adapters of three tasks, a merged model, a stranger and a copy of the base."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    safetensors.numpy.save_file(base_tensors(), "base.safetensors")
    for task, name in enumerate(TASKS):
        for child in range(2):
            write_adapter(Path("loras") / f"{name}-{child}", task, child, rank=1 + 3 * child)
    whole = base_tensors()
    for name, (up, down) in factors(1, 1, 4).items():
        whole[f"{name}.weight"] += up @ down
    (Path("loras") / "birds-0" / "README.md").write_text("---\nbase_model:\n- name: a\nlicense: {name: mit}\n---\n")
    safetensors.numpy.save_file(whole, "loras/merged.safetensors")
    safetensors.numpy.save_file({"other.weight": np.ones((5, 7), np.float32)}, "loras/stranger.safetensors")
    shutil.copy("base.safetensors", "loras/the-base.safetensors")
    return tmp_path


def asked(capsys, *arguments: str) -> list[dict]:
    assert main(["search", *arguments, "--relative-to", "base.safetensors", "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_table(tree, capsys):
    command = ["search", "loras/birds-1", "--relative-to", "base.safetensors", "--index", "loras", "-k", "4"]
    assert main([*command, "--format", "human"]) == 0
    out, err = capsys.readouterr()
    told = "\n".join(line for line in err.splitlines() if line.startswith(("left out", "no hits")))
    assert f"{out}{told}\n" == (GOLDEN / "search_relative.txt").read_text()


def test_merged_and_adapter_are_the_same_and_the_base_is_no_hit(tree, capsys):
    found = asked(capsys, "loras/merged.safetensors", "--index", "loras")
    assert [(hit["id"], hit["same_weights"]) for hit in found[:3]] == [
        ("loras/birds-1", True), ("loras/merged.safetensors", True), ("loras/birds-0", False),
    ]  # fmt: skip
    assert found[1]["parameters"] == sum(16 * 16 * n for n in (1, 1, 2, 2)) and found[0]["parameters"] == 160 * 4
    assert len(found) == 7 and {hit["by"] for hit in found} == {"relative"}
    assert found[0]["metadata"]["change"] == pytest.approx(found[1]["metadata"]["change"], rel=1e-3)


def test_several_queries_by_path_and_id(tree, capsys):
    each = asked(capsys, "loras/letters-0", "loras/roads-0", "--each", "-k", "2", "--index", "loras")
    assert [hit["id"] for hit in each] == ["loras/letters-0", "loras/letters-1", "loras/roads-0", "loras/roads-1"]
    both = asked(capsys, "loras/letters-0", "loras/roads-0", "-k", "4", "--index", "loras")
    assert {hit["id"].split("-")[0] for hit in both} == {"loras/letters", "loras/roads"}
    assert not any(hit["same_weights"] for hit in both)


def test_vectors_are_kept_beside_an_index(tree, capsys, monkeypatch):
    assert main(["index", "loras", "--out", "zoo.index"]) == 0
    capsys.readouterr()
    first = asked(capsys, "loras/birds-0", "--index", "zoo.index")
    (kept,) = Path().glob("zoo.index.relative-*.npz")
    read = []
    monkeypatch.setattr(relative, "read_child", lambda *given: read.append(given))
    assert asked(capsys, "loras/birds-0", "--index", "zoo.index", "-k", "3") and not read
    monkeypatch.undo()
    monkeypatch.chdir(tree)
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged: it is made anew
    assert asked(capsys, "loras/birds-0", "--index", "zoo.index") == first
    assert first[0]["architecture"] is not None and first[0]["parameters"] > 0
    shutil.rmtree("loras/birds-1")  # moved away since it was indexed
    assert "loras/birds-1" not in {hit["id"] for hit in asked(capsys, "loras/birds-0", "--index", "zoo.index")}


def test_what_the_hub_did_not_give_is_asked_for_again(tree, capsys, monkeypatch):
    assert main(["index", "loras", "--out", "zoo.index"]) == 0
    capsys.readouterr()
    own, candidates = [], {one.id: one for one in relative.find_candidates(Path("zoo.index"))[0]}
    first = candidates.pop("loras/birds-1")

    def opened():
        own.append(first.id)
        if len(own) == 1:
            raise CheckpointError("hf://a/b", "cannot be reached", "try again later")
        return first.open()

    shown = [replace(first, path="hf://a/b", open=opened), *candidates.values()]
    monkeypatch.setattr(relative, "find_candidates", lambda directory: (shown, []))
    found = [{hit["id"] for hit in asked(capsys, "loras/birds-0", "--index", "zoo.index")} for _ in range(3)]
    assert found[1] == found[2] == found[0] | {first.id} and first.id not in found[0] and len(own) == 2


def test_what_counts_is_learned_from_notes(tree, capsys):
    assert main(["index", "loras", "--out", "zoo.index"]) == 0
    for name in ("letters-0", "letters-1", "roads-0", "roads-1"):
        assert main(["annotate", f"loras/{name}", f"task={name[:-2]}", "--index", "zoo.index"]) == 0
    capsys.readouterr()
    found = asked(capsys, "loras/birds-0", "--index", "zoo.index", "--learn", "task", "-k", "3")
    assert {hit["id"] for hit in found} == {"loras/birds-0", "loras/birds-1", "loras/merged.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["loras/birds-0", "--relative-to", "nothing"], "error: nothing: "),
        (["loras/stranger.safetensors"], "error: loras/stranger.safetensors: does not fit the base: fewer than half"),
        (["base.safetensors"], "error: base.safetensors: changes nothing of base.safetensors; give a child of it"),
        (["loras/none"], "error: loras/none: "),
        (["loras/birds-0", "--by", "weights"], "error: --by: cannot be used with --relative-to; leave one of them out"),
        (["loras/birds-0", "--not", "loras/birds-1"], "error: --not: cannot be used with --relative-to"),
        (
            ["loras/birds-0", "--learn", "license"],
            "error: tasks: are too few to learn from; name a key that two children",
        ),
        (
            ["loras/birds-0", "--learn", "no"],
            "error: --learn no: no child has this key in its metadata; name one of base",
        ),
        (
            ["loras/birds-0", "--index", "milvus://a/b"],
            "error: milvus://a/b: is a vector store, and --relative-to needs",
        ),
        (["milvus://a/b"], "error: milvus://a/b: is a vector store; name a checkpoint: a file, a folder or"),
        (
            ["loras/birds-0", "--relative-to", "qdrant://a/b"],
            "error: qdrant://a/b: is a vector store; name a checkpoint",
        ),
        (["loras/birds-0", "--index", "empty"], "error: empty: is a folder without checkpoints"),
        (["loras/birds-0", "--index", "strangers"], "error: strangers: holds no child of base.safetensors ("),
    ],
)
def test_bad_input_is_told_in_one_line(tree, capsys, arguments, line):
    Path("empty").mkdir()
    Path("strangers").mkdir()
    shutil.copy("loras/stranger.safetensors", "strangers/a.safetensors")
    assert main(["search", "--relative-to", "base.safetensors", "--index", "loras", *arguments]) == 1
    told = [own for own in capsys.readouterr().err.splitlines() if own.startswith("error")]
    assert len(told) == 1 and told[0].startswith(line)


def test_an_adapter_says_its_scale(tree):
    assert open_checkpoint("loras/birds-1").adapter_scales["base_model.model.layers.0.query"] == 1.0


def test_a_store_or_a_missing_folder_is_told(tree, capsys):
    for place, reason in (("zoo.db", "is a vector store"), ("nowhere", "no such folder")):
        assert main(["search", "a.safetensors", "--relative-to", "base.safetensors", "--index", place]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"error: {place}: {reason}") and err.count("\n") == 1
