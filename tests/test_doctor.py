"""What is said of a model against what its weights say."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fake_encoder import FUNCTION, WEIGHTS, FakeEncoder

from wsrl.checkpoint import Checkpoint
from wsrl.cli.main import main
from wsrl.comparison.relation import Kind, Relation
from wsrl.origins.doctor import NEAREST, examine, examine_index
from wsrl.search.index import Index


def numbers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write(path: Path, tensors: dict[str, np.ndarray], config: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, path)
    if config is not None:
        (path.parent / "config.json").write_text(json.dumps(config))
    return path


def layers(blocks: int = 2, width: int = 16) -> dict[str, np.ndarray]:
    return {f"layers.{block}.linear.weight": numbers((width, width), block) for block in range(blocks)}


def said(path: Path) -> list[str]:
    return [own.where for own in examine(path).disagreements]


@pytest.mark.parametrize(
    ("name", "doubted"),
    [
        ("net-7b", True), ("net-512-v2", False), ("net-0.5m", True), ("8x7b", True), ("laion2b-net", False),
        ("net-int8", True), ("net-fp16", True), ("net-fp32", False), ("net-q4_k_m", True), ("net", False),
    ],
)  # fmt: skip
def test_a_name_may_say_too_much(tmp_path, name, doubted):
    assert said(write(tmp_path / f"{name}.safetensors", layers())) == ["its name"] * doubted


def test_a_lower_precision_than_said_is_no_surprise(tmp_path):
    half = {name: tensor.astype(np.float16) for name, tensor in layers().items()}
    assert said(write(tmp_path / "net-fp16.safetensors", half)) == []
    widened = {name: tensor.astype(np.float32) for name, tensor in half.items()}
    assert said(write(tmp_path / "net-fp32.safetensors", widened)) == []


def test_an_ending_may_be_of_another_format(tmp_path):
    path = write(tmp_path / "a.safetensors", layers())
    path.rename(tmp_path / "a.onnx")
    (own,) = examine(tmp_path / "a.onnx").disagreements
    assert own == ("its name", "a file of ONNX", "the content is safetensors")


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 10}, []),
        ({"hidden_size": 24, "num_hidden_layers": 3}, ["hidden_size", "num_hidden_layers"]),
        ({"vocab_size": 30000, "torch_dtype": "float16"}, ["torch_dtype", "vocab_size"]),
        ({"hidden_size": "wide", "num_hidden_layers": None}, []),
    ],
)
def test_a_configuration_may_be_of_another_network(tmp_path, config, keys):
    path = write(tmp_path / "m" / "model.safetensors", layers(), config)
    assert sorted(said(path.parent)) == [f"config.json ({key})" for key in sorted(keys)]


@pytest.fixture
def zoo(tmp_path) -> Path:
    """An index of models of two tasks, whose function vectors lie near one of two directions."""
    count = 2 * NEAREST + 4
    for number in range(count):
        function = numbers((FUNCTION,), 100 + number % 2) + numbers((FUNCTION,), number) / 9
        write(tmp_path / "zoo" / f"m{number:02}.safetensors", {"w": numbers((WEIGHTS,), number), "f": function})
    index = Index.build(FakeEncoder(), str(tmp_path / "zoo"), tmp_path / "index")
    for name in index.ids:
        index.annotate(name, {"task": task(name), "author": f"author {name}"})
    return tmp_path / "index"


def task(name: str) -> str:
    return ("cats", "dogs")[int(Path(name).stem[1:]) % 2]


def unrelated(a: Checkpoint, b: Checkpoint) -> Relation:
    return Relation(Kind.UNRELATED)


def test_right_labels_are_not_doubted(zoo):
    assert examine_index(zoo, unrelated) == ([], [])


def test_a_label_that_all_neighbors_contradict_is_doubted(zoo):
    name = Index.open(zoo).ids[3]
    Index.open(zoo).annotate(name, {"task": "cats" if task(name) == "dogs" else "dogs"})
    (own,), problems = examine_index(zoo, unrelated)
    assert problems == [] and own.model == name
    assert [(one.where, one.found) for one in own.disagreements] == [
        ("label task", f"the {NEAREST} nearest by function are {task(name)}")
    ]


def test_a_declared_base_may_be_unrelated(tmp_path):
    write(tmp_path / "zoo" / "base.safetensors", {"w": numbers((WEIGHTS,), 1)})
    child = write(tmp_path / "zoo" / "child" / "model.safetensors", {"w": numbers((WEIGHTS,), 2)}, {})
    (child.parent / "README.md").write_text("---\nbase_model: zoo/base\n---\n")
    Index.build(FakeEncoder(), str(tmp_path / "zoo"), tmp_path / "index")
    (own,), _ = examine_index(tmp_path / "index", unrelated)
    assert [(one.says, one.found) for one in own.disagreements] == [
        ("made from zoo/base", f"unrelated to {tmp_path}/zoo/base.safetensors")
    ]
    assert examine_index(tmp_path / "index", lambda a, b: Relation(Kind.FINE_TUNED, related=True))[0] == []


def test_equal_weights_have_one_license(tmp_path):
    tensors = {"w": numbers((WEIGHTS,), 1)}
    for name in ("a", "b"):
        write(tmp_path / "zoo" / f"{name}.safetensors", tensors)
    index = Index.build(FakeEncoder(), str(tmp_path / "zoo"), tmp_path / "index")
    first, second = index.ids
    index.annotate(first, {"license": "mit"})
    index.annotate(second, {"license": "apache-2.0"})
    (own,), _ = examine_index(tmp_path / "index", unrelated)
    assert own.model == second and own.disagreements[0].where == "label license"


def test_the_command_lists_disagreements_and_says_so_by_its_status(tmp_path, capsys):
    path = write(tmp_path / "net-7b.safetensors", layers())
    write(tmp_path / "net.safetensors", layers())
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 99)
    assert main(["doctor", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["id"] == str(path) and json.loads(out)["where"] == "its name"
    assert "1 disagreements" not in err and "left out" in err and "broken.safetensors" in err
    assert main(["doctor", str(tmp_path / "net.safetensors")]) == 0
    assert capsys.readouterr().err == "nothing disagrees\n"
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / "empty"), str(tmp_path / "net.safetensors")]) == 1
    assert "nothing disagrees\nleft out: " in (told := capsys.readouterr().err) and "without checkpoints" in told
    assert main(["doctor"]) == 1 and main(["doctor", str(path), "--index", str(tmp_path)]) == 1
    assert main(["doctor", str(tmp_path / "broken.safetensors")]) == 1
    assert capsys.readouterr().err.splitlines()[-2] == "no model was examined"
