import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fake_encoder import FakeEncoder, write_model

from wsrl.checkpoint import Checkpoint
from wsrl.cli.main import main
from wsrl.comparison.relation import Kind, Relation
from wsrl.errors import InputError
from wsrl.origins.duplicates import find_duplicates
from wsrl.search.index import Index

OLD = 1_700_000_000


def compare_numbers(a: Checkpoint, b: Checkpoint) -> Relation:
    """A stand-in that knows equal numbers."""
    one, other = ([np.asarray(t).ravel() for t in own.tensors.values()] for own in (a, b))
    same = len(one) == len(other) and all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))
    return Relation(Kind.SAME_WEIGHTS, related=True) if same else Relation(Kind.UNRELATED)


def narrow(source: Path, target: Path) -> None:
    tensors = {name: t.astype(np.float16) for name, t in safetensors.numpy.load_file(source).items()}
    safetensors.numpy.save_file(tensors, target)


def slightly_tuned(source: Path, target: Path) -> None:
    tensors = {
        name: t * np.float32(1 + 2e-3) + np.float32(1e-3) for name, t in safetensors.numpy.load_file(source).items()
    }
    safetensors.numpy.save_file(tensors, target)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Two networks, copies of the first in five ways, and one that was trained on from it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models"
    for seed, name in enumerate(("a", "b")):
        write_model(folder / f"{name}.safetensors", seed)
        os.utime(folder / f"{name}.safetensors", (OLD, OLD))
    a = folder / "a.safetensors"
    shutil.copyfile(a, folder / "it's a `copy`.safetensors")
    os.link(a, folder / "hard.safetensors")
    (folder / "soft.safetensors").symlink_to("a.safetensors")
    renamed = {f"net.{name}": tensor for name, tensor in safetensors.numpy.load_file(a).items()}
    safetensors.numpy.save_file(renamed, folder / "renamed.safetensors")
    narrow(a, folder / "half.safetensors")
    slightly_tuned(a, folder / "tuned.safetensors")
    Index.build(FakeEncoder(), "models", "zoo.index")
    return tmp_path


def found(**options):
    return find_duplicates("zoo.index", compare=compare_numbers, **options)


def names(group) -> list[str]:
    return [Path(copy.path).name for copy in group.copies]


def test_groups_are_of_one_kind_each(zoo):
    groups = {group.kind: group for group in found().groups}
    assert list(groups) == [Kind.SAME_FILE, Kind.SAME_WEIGHTS]
    assert set(names(groups[Kind.SAME_FILE])) == {
        "a.safetensors", "hard.safetensors", "soft.safetensors", "it's a `copy`.safetensors"
    }  # fmt: skip
    assert names(groups[Kind.SAME_WEIGHTS]) == ["a.safetensors", "renamed.safetensors", "half.safetensors"]
    assert "tuned.safetensors" not in {name for group in groups.values() for name in names(group)}


def test_the_keeper_comes_first_and_it_is_told_why(zoo):
    whys = {group.kind: group.why for group in found().groups}
    assert whys[Kind.SAME_FILE] == "it is the oldest"
    assert whys[Kind.SAME_WEIGHTS] == "it has the highest precision"
    (zoo / "safe").mkdir()
    shutil.copyfile("models/a.safetensors", "safe/a.safetensors")
    Index.build(FakeEncoder(), ["models", "safe"], "zoo.index")
    for option, why in (("reference", "it lies in a reference folder"), ("keep", "it lies in a folder to keep")):
        (group,) = found(kinds=[Kind.SAME_FILE], **{option: ["safe"]}).groups
        assert group.copies[0].path == "safe/a.safetensors" and group.why == why


def test_bytes_are_counted_once(zoo):
    (group,) = found(kinds=[Kind.SAME_FILE]).groups
    assert group.freed == os.stat("models/it's a `copy`.safetensors").st_blocks * 512  # links free nothing
    os.link("models/it's a `copy`.safetensors", "elsewhere")
    Index.build(FakeEncoder(), "models", "zoo.index")
    (group,) = found(kinds=[Kind.SAME_FILE]).groups
    assert group.freed == 0  # its bytes would stay under the other name


def test_what_is_referenced_is_never_removable(zoo):
    for group in found(reference=["models"]).groups:
        assert group.freed == 0 and not any(copy.removable for copy in group.copies)
    with pytest.raises(InputError, match="none: is no folder"):
        found(reference=["none"])


def test_changed_and_missing_files_are_left_out(zoo):
    write_model(zoo / "models/a.safetensors", 5)  # and where its symbolic link leads
    (zoo / "models/renamed.safetensors").unlink()
    result = found()
    assert sorted(Path(problem.file).name for problem in result.problems) == [
        "a.safetensors", "renamed.safetensors", "soft.safetensors"
    ]  # fmt: skip
    assert {group.kind: len(group.copies) for group in result.groups} == {Kind.SAME_FILE: 2, Kind.SAME_WEIGHTS: 2}


def test_external_data_belongs_to_the_bytes(zoo):
    for name, content in (("x", b"one"), ("y", b"two"), ("z", b"one")):
        shutil.copyfile("models/b.safetensors", f"models/{name}.onnx")
        Path(f"models/{name}.onnx.data").write_bytes(content)
    Index.build(FakeEncoder(), ["models/x.onnx", "models/y.onnx", "models/z.onnx"], "zoo.index")
    (group, *others) = found(kinds=[Kind.SAME_FILE]).groups
    assert not others and names(group) == ["x.onnx", "z.onnx"]


def test_the_search_is_not_quadratic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(60):
        write_model(tmp_path / f"models/{seed}.safetensors", seed)
    for copy in range(20):
        narrow(Path("models/0.safetensors"), Path(f"models/half-{copy}.safetensors"))
        os.truncate(f"models/half-{copy}.safetensors", os.stat(f"models/half-{copy}.safetensors").st_size)
    Index.build(FakeEncoder(), "models", "zoo.index")
    result = found()
    assert result.compared <= 2 and len(result.groups) == 2


def test_the_command(zoo, capsys, monkeypatch):
    assert main(["duplicates", "--index", "zoo.index", "--kind", "same-file", "--json"]) == 0
    (group,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert group["kind"] == "same_file" and group["keep"] == group["copies"][0]["id"] and group["freed"] > 0
    assert [copy["removable"] for copy in group["copies"]].count(True) == 2
    assert main(["duplicates", "--index", "zoo.index", "--kind", "same-file"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("the same file: 4 models, ") and lines[1].startswith("  keep")
    assert err.splitlines()[-1].startswith("1 group; identical files: ")
    assert main(["duplicates", "--index", "zoo.index", "--include", "same-weights"]) == 1
    assert "add --emit" in capsys.readouterr().err


def test_a_plan_has_a_form_of_its_own(zoo, capsys):
    assert main(["duplicates", "--index", "zoo.index", "--emit", "sh", "--json"]) == 1
    assert "--format: does not go with --emit" in capsys.readouterr().err


def test_the_sieve_opens_no_file(zoo, monkeypatch):
    monkeypatch.setattr("wsrl.origins.duplicates.may_be_same", lambda *_: False)
    assert found().compared <= 2  # those of equal digests
