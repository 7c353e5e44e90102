"""What becomes of an index when its files are damaged or the process that writes it is killed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_encoder import FakeEncoder, write_model

from wsrl.errors import InputError
from wsrl.search.index import Index

FILES = ("manifest.json", "weights-*", "function-*", "signatures-*", "models-*", "neighbors-*", "expansion-*")
KILLED = """
import os, shutil, signal, sys
from pathlib import Path

sys.path[:0] = [{tests!r}]
from fake_encoder import FakeEncoder
from wsrl.search import commit, update
from wsrl.search.index import Index

models, base, directory = Path({models!r}), Path({base!r}), Path({index!r})
update.COMMIT_EVERY = -1  # after each model
commit.MOST_SEGMENTS = 3


def kill_at(step):
    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
        def counted(*arguments, call=getattr(owner, name), **options):
            counted_calls.append(name)
            if len(counted_calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        setattr(owner, name, counted)


for step in range(1, {steps}):
    shutil.rmtree(directory, ignore_errors=True)
    if base.exists():
        shutil.copytree(base, directory)
    child = os.fork()
    if not child:
        counted_calls = []
        kill_at(step)
        Index.build(FakeEncoder(), models, directory)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the child came to its end"
    known = []
    if (directory / "manifest.json").exists():
        index = Index.open(directory)
        assert index.verify() == [] and len(set(index.ids)) == len(index.ids)
        known = [name for name in index.ids if Path(name).exists()]
    encoder = FakeEncoder()
    again = Index.build(encoder, models, directory)
    assert sorted(again.ids) == sorted(map(str, models.iterdir())) and again.verify() == []
    assert len(encoder.embedded) + again.changes.unchanged == len(again)
    for row in FakeEncoder().embed(again.ids):
        assert (again.get(row.id).weights == row.weights).all()
    assert {{path.name for path in directory.iterdir()}} == {{*again._store.manifest.files, "manifest.json", "lock"}}
    print(len(known), again.changes.unchanged)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An index of 40 models."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in range(40):
        write_model(folder / "models" / f"{seed}.safetensors", seed, function=bool(seed % 4))
    Index.build(FakeEncoder(), folder / "models", folder / "index")
    return folder / "index"


def answers(directory: Path):
    """All that an index says; its query is in the index, so that no encoder is asked."""
    index = Index.open(directory)
    first = [
        [hit for hit in index.search(index.get(name), 5, by)] for name in index.ids[1:3] for by in ("weights", "auto")
    ]
    return index.ids, first, [index.get(name).tensors["w"].tolist() for name in index.ids]


def refused(directory: Path, expected) -> bool:
    """Whether damage is told in one line, and found by `verify` if the index can be opened; else nothing changed."""
    try:
        found = answers(directory)
    except InputError as error:
        assert str(error).count("\n") == 0 and str(directory) in str(error)
        assert "wsrl verify --repair" in error.fix or "index" in error.fix
        return True
    assert found == expected
    return False


@pytest.mark.parametrize("pattern", FILES)
def test_any_damaged_byte_is_noticed(whole, tmp_path, pattern):
    shutil.copytree(whole, tmp_path / "index")
    expected = answers(tmp_path / "index")
    (path,) = (tmp_path / "index").glob(pattern)
    content = path.read_bytes()
    places = {int(share * (len(content) - 1)) for share in (i / 40 for i in range(41))} | set(range(24))
    for place in sorted(places):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        assert refused(tmp_path / "index", expected)
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert refused(tmp_path / "index", expected)
    path.write_bytes(content + b"\0")
    assert refused(tmp_path / "index", expected)
    path.unlink()
    assert refused(tmp_path / "index", expected)
    path.write_bytes(content)
    assert not refused(tmp_path / "index", expected)


def test_verify_names_the_file(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "index")
    (path,) = (tmp_path / "index").glob("signatures-*")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    (damage,) = Index.open(tmp_path / "index").verify()
    assert (damage.part, damage.file, damage.reason) == ("vectors", str(path), "not as it was written")


@pytest.mark.parametrize("before", [False, True])
def test_a_writer_that_is_killed_at_any_step_leaves_an_index_that_goes_on(tmp_path, before):
    """The steps are those that other processes can see or that a crash can undo."""
    models, base = tmp_path / "models", tmp_path / "base"
    for number in range(10):
        write_model(models / f"{number}.safetensors", number, function=bool(number % 3))
    if before:  # some are known, some have changed, some are gone
        Index.build(FakeEncoder(), models, base)
        for number in range(4):
            write_model(models / f"{number}.safetensors", 100 + number)
        for number in range(4, 7):
            os.remove(models / f"{number}.safetensors")
    steps = 30
    code = KILLED.format(
        tests=str(Path(__file__).parent), models=str(models), base=str(base), index=str(tmp_path / "index"), steps=steps
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(counts) == steps - 1
    assert all(unchanged >= (3 if before else known) for known, unchanged in counts)
    assert before or len({known for known, _ in counts}) > 1  # the kills hit more commits than the first


def test_an_interrupt_keeps_what_was_embedded(tmp_path):
    for number in range(9):
        write_model(tmp_path / "models" / f"{number}.safetensors", number)

    class Interrupted(FakeEncoder):
        def _row(self, source, function):
            if len(self.embedded) == 5:
                raise KeyboardInterrupt
            return super()._row(source, function)

    with pytest.raises(KeyboardInterrupt):
        Index.build(Interrupted(), tmp_path / "models", tmp_path / "index")
    assert len(Index.open(tmp_path / "index")) == 4
    encoder = FakeEncoder()
    assert len(Index.build(encoder, tmp_path / "models", tmp_path / "index")) == 9 and len(encoder.embedded) == 5


def test_a_file_that_changes_while_it_is_read_is_left_out(tmp_path):
    path = tmp_path / "models" / "a.safetensors"
    write_model(path, 0)
    write_model(tmp_path / "models" / "b.safetensors", 1)

    class Slow(FakeEncoder):
        def _row(self, source, function):
            row = super()._row(source, function)
            os.utime(path, (5, 5))
            return row

    index = Index.build(Slow(), tmp_path / "models", tmp_path / "index")
    assert index.ids == [str(tmp_path / "models" / "b.safetensors")]
    assert "changed while it was read" in str(index.changes.problems[0])
