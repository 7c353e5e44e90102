import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import claims
import numpy as np
import pytest
import safetensors.numpy

from wsrl.checkpoint import Checkpoint
from wsrl.cli.main import main
from wsrl.cli.table import print_table
from wsrl.drawing.fold import fold_groups, fold_operations
from wsrl.drawing.plot import plot
from wsrl.text import brace, bytes_text, printable
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.wiring import Fact, Operation, Wiring

GOLDEN = Path(__file__).parent / "golden"
SAMPLES = ("mlp", "resnet", "bert")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder, a fixed width and no inference: what the solver would say is what the samples say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def solved(monkeypatch):
    def use(claim):
        monkeypatch.setattr("wsrl.cli.inspect.infer_wiring", lambda checkpoint: claim)
        return claim

    return use


def save(name, claim, dtype=np.float32):
    safetensors.numpy.save_file(claims.arrays(claim, dtype), f"{name}.safetensors")
    return f"{name}.safetensors"


@pytest.mark.parametrize("name", SAMPLES)
def test_the_table_is_as_told(name, folder, solved, capsys):
    file = save(name, solved(getattr(claims, name)()))
    assert main(["inspect", file]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 110
    assert out == (GOLDEN / f"inspect_{name}.txt").read_text()


def test_a_pipe_gets_a_line_a_row_however_wide(folder, solved, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    file = save("bert", solved(claims.bert()))
    assert main(["inspect", file, "--all"]) == 0
    out = capsys.readouterr().out
    assert sum("encoder.layer.11.attention.self.value " in line and "linear" in line for line in out.splitlines()) == 1
    assert "{" not in out


def test_a_terminal_gets_its_width_and_colors(folder, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    claim = claims.bert()
    print_table(Checkpoint("a", claims.arrays(claim), {}), claim, width=70)
    out = capsys.readouterr().out
    assert "\x1b[" in out


def test_json_is_the_whole_claim_and_nothing_else(folder, solved, capsys):
    claim = solved(claims.bert(layers=2))
    file = save("bert", claim)
    assert main(["inspect", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("file") == file and told.pop("wsrl") == 1
    assert told.pop("format") == "safetensors"
    assert told == json.loads(json.dumps(claim.to_json()))


def test_what_json_prints_is_a_wiring_file(folder, solved, capsys):
    file = save("resnet", solved(claims.resnet()))
    main(["inspect", file, "--json"])
    first = capsys.readouterr().out
    Path("wiring.json").write_text(first)
    solved(None)
    assert main(["inspect", file, "--json", "--wiring", "wiring.json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(first)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere.safetensors"], "error: nowhere.safetensors: "),
        (["mlp.safetensors", "--wiring", "nowhere.json"], "error: nowhere.json: cannot be read "),
        (["mlp.safetensors", "--wiring", "empty.json"], "error: empty.json: "),
        (["a\nb"], "error: a\\nb: "),
        (["mlp.safetensors", "--plot", "mlp.safetensors"], "error: mlp.safetensors: is not the name of an SVG file"),
        (["mlp.safetensors", "--plot", "mlp.safetensors/a.svg"], "error: mlp.safetensors"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, line, folder, solved, capsys):
    save("mlp", solved(claims.mlp()))
    Path("empty.json").write_text("")
    assert main(["inspect", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert "; " in err


def test_an_interrupt_ends_quietly(folder, solved, capsys, monkeypatch):
    file = save("mlp", solved(claims.mlp()))

    def interrupted(checkpoint):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsrl.cli.inspect.infer_wiring", interrupted)
    assert main(["inspect", file]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    monkeypatch.setattr("wsrl.cli.main.import_module", interrupted)
    assert main(["search"]) == 130  # while modules are imported
    assert capsys.readouterr().err == "interrupted\n"


def run(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, **options)


def test_the_command_starts_without_what_it_does_not_need(folder):
    claim = claims.mlp()
    file = save("mlp", claim)
    Path("wiring.json").write_text(json.dumps(claim.to_json()))
    code = (
        "import sys; from wsrl.cli.main import main; main(sys.argv[1:]);"
        "print(*{'jax', 'flax', 'scipy', 'rich', 'sklearn', 'wsrl.cli.embed'} & set(sys.modules), file=sys.stderr)"
    )
    ended = run("-c", code, "inspect", file, "--wiring", "wiring.json", "--json")
    assert ended.stderr == "\n"
    assert json.loads(ended.stdout)["parameters"] == claim.parameters


def test_help_of_most_commands_starts_without_arrays():
    code = (
        "import sys; from wsrl.cli.main import COMMANDS, command_parser;"
        "command_parser(COMMANDS.keys() - {'inspect', 'embed'});"
        "print(*{'numpy', 'jaxtyping', 'sqlite3', 'yaml'} & set(sys.modules))"
    )
    assert run("-c", code).stdout == "\n"


def test_a_reader_that_leaves_is_no_error(folder):
    claim = claims.bert()
    file = save("bert", claim)
    Path("wiring.json").write_text(json.dumps(claim.to_json()))
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "wsrl", "inspect", file, "--wiring", "wiring.json"]
    ended = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_names_cannot_steer_the_terminal(capsys):
    name = "a\x1b[2J\x07[bold]b\ud800"
    claim = Wiring(
        {}, {name: (3,)}, {name: (None,)}, (Operation(name, "linear", {"value": name}),), warnings=("\r\x1b]0;x\x07",)
    )
    print_table(Checkpoint(name, {name: np.zeros(3, np.float32)}, {}), claim, width=100)
    out = capsys.readouterr().out
    assert out.isascii()
    assert all(line.isprintable() for line in out.splitlines())
    assert "a\\x1b[2J\\x07[bold]b\\ud800" in out


@pytest.mark.parametrize("names", [["a." * 5000 + "b"], ["7" * 9000, "8" * 9000], ["", "."], ["٣.w", "٤.w"]])
def test_names_that_no_framework_writes(names, capsys):
    claim = Wiring({}, {name: (2, 2) for name in names}, {name: (None, None) for name in names})
    print_table(Checkpoint("a", {name: np.zeros((2, 2), np.float32) for name in names}, {}), claim)
    assert plot(claim, "a")
    assert capsys.readouterr().out.startswith("a: unknown format, ")


def test_operations_stand_in_the_order_of_the_data_and_assumptions_are_listed(capsys):
    shapes = {"head.weight": (3, 8), "bn1.weight": (8,), "bn1.bias": (8,), "bn1.running_mean": (8,)}
    shapes |= {"bn1.running_var": (8,), "conv1.weight": (8, 3, 3, 3), "conv2.weight": (8, 8, 3, 3)}
    checkpoint = Checkpoint("a", {name: np.ones(shape, np.float32) for name, shape in shapes.items()}, {})
    print_table(checkpoint, infer_wiring(checkpoint), width=110)
    out = capsys.readouterr().out
    rows = out[out.index("Operations") : out.index("Groups")].splitlines()[2:-1]
    assert [row.split()[0] for row in rows] == ["conv1", "bn1", "conv2", "head"]
    assumed = out[out.index("Assumed") :]
    assert "- activation is unknown, so that the scale of units is none: bn1, conv2\n" in assumed
    assert "- epsilon is 1e-05: bn1\n" in assumed


def test_scales_are_not_said_to_be_none_where_they_are_not(capsys):
    wiring = claims.mlp()
    unknown = {"activation": Fact(None, "assumed")}
    wiring = replace(wiring, operations=tuple(replace(o, facts=unknown) for o in wiring.operations))
    print_table(Checkpoint("a", claims.arrays(wiring), {}), wiring, width=110)
    assert "- activation is unknown: 0, 2, 1 more\n" in capsys.readouterr().out


def test_debug_shows_where_an_error_comes_from(folder, solved, capsys, monkeypatch):
    file = save("mlp", solved(claims.mlp()))

    def broken(*_):
        raise IndexError("tuple index out of range")

    monkeypatch.setattr("wsrl.cli.inspect.infer_wiring", infer_wiring)
    monkeypatch.setattr("wsrl.wiring.infer_wiring.Adapters", broken)
    assert main(["inspect", file]) == 1
    assert capsys.readouterr().err.startswith("error: mlp.safetensors: its wiring cannot be inferred (IndexError: ")
    assert main(["--debug", "inspect", file]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "in broken" in err
    assert err.splitlines()[-1].startswith("error: mlp.safetensors: ")


def test_many_warnings_are_counted(capsys):
    claim = Wiring({}, {"a": (3,)}, {"a": (None,)}, warnings=tuple(f"warning {i}" for i in range(30)))
    checkpoint = Checkpoint("a", {"a": np.zeros(3, np.float32)}, {"left_out": ("steps",)})
    print_table(checkpoint, claim, width=100)
    assert "- 21 more, shown by --all\n" in capsys.readouterr().out
    print_table(checkpoint, claim, unfold=True, width=100)
    assert "- 1 left out, no weights: steps\n" in capsys.readouterr().out


def test_folding_keeps_every_module_tensor_and_group():
    for name in SAMPLES:
        claim = getattr(claims, name)()
        for unfold in (False, True):
            rows = fold_operations(claim, unfold)
            assert sorted(t for row in rows for o in row.operations for t in o.tensors.values()) == sorted(claim.shapes)
            assert sum(row.parameters for row in rows) == claim.parameters
            groups = fold_groups(claim, rows)
            assert sorted(g for row in groups for g in row.ids) == sorted(claim.groups)


def test_three_hundred_layers_fit_on_a_screen():
    assert len(fold_operations(claims.bert(layers=300))) == len(fold_operations(claims.bert(layers=2)))


def test_blocks_that_differ_are_not_folded():
    claim = claims.bert(layers=4)
    shapes = {**claim.shapes, "encoder.layer.2.output.dense.bias": (63,)}
    rows = fold_operations(Wiring(claim.groups, shapes, claim.axes, claim.operations))
    names = {row.name for row in rows}
    assert {f"encoder.layer.{k}.output.dense" for k in ("{0..1}", "2", "3")} <= names


def test_nested_blocks_are_folded():
    names = [f"stages.{i}.blocks.{j}.{k}" for i in range(3) for j in range(2) for k in ("conv", "norm")]
    shapes = {f"{name}.weight": (4, 4) for name in names}
    operations = tuple(Operation(name, "linear", {"weight": f"{name}.weight"}) for name in names)
    claim = Wiring({}, shapes, {name: (None, None) for name in shapes}, operations)
    rows = fold_operations(claim)
    assert [row.name for row in rows] == ["stages.{0..2}.blocks.{0..1}.conv", "stages.{0..2}.blocks.{0..1}.norm"]
    assert rows[0].blocks == (("stages.{0..2}", 3), ("stages.{0..2}.blocks.{0..1}", 2))


def test_text():
    assert brace(["a1", "a2"]) == "a{1..2}"
    assert brace(["a1", "a4", "a7"]) == "a{1..7..3}"
    assert brace(["a1", "a4"]) == "a{1,4}"
    assert brace(["a1", "a2", "a4", "a8", "a16"]) == "a{1,2,..,16}"
    assert brace(["a", "b"]) == "a .. b"
    assert brace(["a1", "b1"]) == "a1 .. b1"
    assert [bytes_text(n) for n in (1, 999, 1000, 437_900_000, 2e15)] == [
        "1 B",
        "999 B",
        "1.0 kB",
        "437.9 MB",
        "2,000.0 TB",
    ]
    assert printable("a\nb\u202e\ud800é") == "a\\nb\\u202e\\ud800é"
