import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import safetensors.numpy
from fake_encoder import FakeEncoder, write_model
from test_duplicates import compare_numbers

from wsrl.cli.main import main
from wsrl.comparison.relation import Kind
from wsrl.origins import disk
from wsrl.origins.duplicates import find_duplicates
from wsrl.origins.plan import emit, steps
from wsrl.search.index import Index

STRANGE = b"a 'b' \"$HOME\" `id` \\ \n \xff.safetensors"


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A network, a copy under a strange name, and the same weights under other names."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "models/a.safetensors", 0)
    shutil.copyfile("models/a.safetensors", b"models/" + STRANGE)
    tensors = {f"net.{name}": tensor for name, tensor in safetensors.numpy.load_file("models/a.safetensors").items()}
    safetensors.numpy.save_file(tensors, "models/renamed.safetensors")
    Index.build(FakeEncoder(), "models", "zoo.index")
    os.utime("zoo.index")
    return tmp_path


def plan(kinds=(Kind.SAME_FILE,), **options):
    found = find_duplicates("zoo.index", compare=compare_numbers, keep=[], **options)
    return list(steps(found.groups, kinds))


def script(kinds=(Kind.SAME_FILE,), action: str = "remove", **options) -> subprocess.CompletedProcess:
    Path("plan.sh").write_bytes(emit("sh", plan(kinds, **options)))
    return subprocess.run(["sh", "plan.sh", action], capture_output=True, check=False)


def files() -> set[bytes]:
    return set(os.listdir(b"models"))


ALL = {b"a.safetensors", STRANGE, b"renamed.safetensors"}


def test_the_default_changes_nothing(zoo):
    done = script(action="check")
    assert done.returncode == 0 and done.stdout.startswith(b"can go: ") and files() == ALL
    assert subprocess.run(["sh", "plan.sh"], capture_output=True, check=False).returncode == 0 and files() == ALL
    assert script(action="nonsense").returncode == 2 and files() == ALL


def test_only_identical_files_go_by_default(zoo):
    done = script()
    assert done.returncode == 0 and not done.stderr
    (gone,) = ALL - files()
    assert gone in (STRANGE, b"a.safetensors")


def test_the_same_weights_go_when_asked_and_one_stays(zoo):
    done = script((Kind.SAME_FILE, Kind.SAME_WEIGHTS))
    assert done.returncode == 0 and len(files()) == 1


def test_links_stand_for_copies_and_never_for_other_bytes(zoo):
    assert script((Kind.SAME_FILE, Kind.SAME_WEIGHTS), "link").returncode == 1
    assert files() == ALL
    assert os.stat("models/a.safetensors").st_ino == os.stat(b"models/" + STRANGE).st_ino
    assert os.stat("models/renamed.safetensors").st_nlink == 1


@pytest.mark.parametrize("name", [b"a.safetensors", STRANGE])
@pytest.mark.parametrize("how", ["content", "replaced", "gone", "longer"])
def test_what_has_changed_since_is_left_alone(zoo, name, how):
    path = b"models/" + name
    Path("plan.sh").write_bytes(emit("sh", plan()))
    stat, content = os.stat(path), Path(os.fsdecode(path)).read_bytes()
    if how == "content":  # of the same size, with the time set back
        Path(os.fsdecode(path)).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif how == "replaced":  # by another file of the same bytes and time
        shutil.copyfile(path, "new")
        os.utime("new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.replace("new", path)
    elif how == "gone":
        os.unlink(path)
    else:
        Path(os.fsdecode(path)).write_bytes(content + b" ")
    before = files()
    done = subprocess.run(["sh", "plan.sh", "remove"], capture_output=True, check=False)
    assert done.returncode == 1 and b"left alone: " in done.stderr and files() == before


def test_other_bytes_are_checked_by_their_digests(zoo):
    Path("plan.sh").write_bytes(emit("sh", plan((Kind.SAME_WEIGHTS,))))
    stat = os.stat("models/renamed.safetensors")
    content = Path("models/renamed.safetensors").read_bytes()
    Path("models/renamed.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime("models/renamed.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = subprocess.run(["sh", "plan.sh", "remove"], capture_output=True, check=False)
    assert done.returncode == 1 and files() == ALL


def test_reference_folders_are_in_no_step(zoo):
    assert plan((Kind.SAME_FILE, Kind.SAME_WEIGHTS), reference=["models"]) == []


def test_json_and_fclones_name_the_same_files(zoo, capsysbinary):
    assert main(["duplicates", "--index", "zoo.index", "--emit", "json"]) == 0
    (step,) = json.loads(capsysbinary.readouterr().out)["steps"]
    assert step["kind"] == "same_file" and set(step["keep"]) == {"path", "size", "mtime", "device", "inode"}
    assert main(["duplicates", "--index", "zoo.index", "--emit", "fclones"]) == 0
    report = json.loads(capsysbinary.readouterr().out.decode(errors="surrogateescape"))
    (group,) = report["groups"]
    assert group["files"] == [step["keep"]["path"], step["copy"]["path"]]
    assert report["header"]["stats"]["redundant_file_count"] == 1


def test_folders_go_file_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "one/model.safetensors", 0)
    Path("one/config.json").write_text("{}")
    shutil.copytree("one", "two")
    Index.build(FakeEncoder(), ["one", "two"], "zoo.index")
    found = plan()
    assert [(step.keep.path, step.copy.path) for step in found] == [
        (str(tmp_path / "one" / name), str(tmp_path / "two" / name)) for name in ("config.json", "model.safetensors")
    ]


def test_extents_that_other_files_share():
    extents = [(0, 4096, 0), (4096, 8192, disk.SHARED | disk.LAST)]
    content = disk.HEADER.pack(0, 0, 0, len(extents), 9, 0)
    content += b"".join(disk.EXTENT.pack(start, 7, length, 0, 0, flags, 0, 0, 0) for start, length, flags in extents)
    assert disk.read_extents(content + bytes(disk.EXTENT.size)) == extents


def test_shared_extents_free_nothing(tmp_path):
    file = disk.OnDisk("x", 1, 2, 1, 100, 0, 4096, 0, False)
    copy = file._replace(path="y", inode=3)
    assert disk.freed([copy], [file]) == 4096 and disk.freed([copy._replace(shared=4096)], [file]) == 0
    assert disk.freed([copy, copy], [file]) == 4096 and disk.freed([copy], [copy]) == 0
    assert disk.freed([copy._replace(links=2)], []) == 0 and disk.freed([copy._replace(linked=True)], []) == 0
