"""What holds for all commands: their help, what of them is documented, formats, exit status, completion."""

import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fake_encoder import FakeEncoder, write_model
from test_relative_command import base_tensors, write_adapter

from experiments import commands_page
from wsrl.cli import main as command_line
from wsrl.cli.completion import SHELLS
from wsrl.cli.main import COMMANDS, main
from wsrl.cli.output import FORMATS, Output
from wsrl.encoder import checkpoint_encoder
from wsrl.search import query_rows

PAGE = (Path(__file__).parents[1] / "docs" / "commands.md").read_text()
MODULES = {name: importlib.import_module(f"wsrl.cli.{name}") for name in COMMANDS}
EXAMPLES = [line for module in MODULES.values() for line in module.EXAMPLES]
ELSEWHERE = ("recommend", "completion", "map", "serve")  # their own tests run them


def section(title: str) -> str:
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def documented_keys(command: str) -> set[str]:
    row = next(line for line in section("Keys").splitlines() if f"`{command}`" in line[: line.find("|", 1)])
    return set(re.findall(r"`(\w+)`", row.split("|", 2)[2]))


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """A working folder with all that the examples name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint_encoder, "load_encoder", lambda directory=None: FakeEncoder())
    monkeypatch.setattr(query_rows, "load_encoder", lambda directory=None: FakeEncoder())
    for seed, name in enumerate(("model", "mlp", "other", "checkpoints/a", "checkpoints/old")):
        write_model(Path(f"{name}.safetensors"), seed)
    safetensors.numpy.save_file(base_tensors(), "base.safetensors")
    for child in range(2):
        write_adapter(Path("loras") / str(child), 0, child, 2)
    shutil.copy("loras/0/adapter_model.safetensors", "adapter.safetensors")
    assert main(["index", "checkpoints", "--out", "zoo.index"]) == 0
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_run(folder, monkeypatch, example):
    stages = [shlex.split(part) for part in example.split(" | ")]
    words = stages[-1]
    if len(stages) > 1:
        found = subprocess.run(stages[0], capture_output=True, text=True, check=True).stdout
        monkeypatch.setattr(sys, "stdin", io.StringIO(found))
    if words[0] == "eval":
        words = shlex.split(words[1][2:-1])
    words = words[: words.index(">")] if ">" in words else words
    if words[1] in ELSEWHERE:
        assert command_line.command_parser(words[1:2]).parse_args(words[1:])
    else:
        assert main(words[1:]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_examples(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"  {line}\n" in out for line in MODULES[command].EXAMPLES)


def test_all_options_are_on_the_page(capsys):
    assert commands_page.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_differs_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands_page, "PAGE", tmp_path / "commands.md")
    (tmp_path / "commands.md").write_text(PAGE.replace("--where CONDITION", "--filter CONDITION"))
    assert commands_page.main(["--check"]) == 1
    assert "differs from the help of the commands; run python -m" in capsys.readouterr().err
    assert commands_page.main([]) == 0 and (tmp_path / "commands.md").read_text() == PAGE


@pytest.mark.parametrize(
    "words",
    [
        ["index", "checkpoints", "--out", "zoo.index"], ["add", "model.safetensors", "--index", "zoo.index"],
        ["update", "--index", "zoo.index"], ["remove", "checkpoints/a.safetensors", "--index", "zoo.index"],
        ["info", "--index", "zoo.index"], ["annotate", "checkpoints/a.safetensors", "a=b", "--index", "zoo.index"],
        ["verify", "--index", "zoo.index"], ["export", "--index", "zoo.index", "--out", "zoo.npz"],
        ["search", "model.safetensors", "--index", "zoo.index", "--explain"],
        ["compare", "model.safetensors", "mlp.safetensors"], ["fingerprint", "model.safetensors"],
        ["identify", "model.safetensors"], ["lineage", "--index", "zoo.index"], ["duplicates", "--index", "zoo.index"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_all_keys_are_on_the_page(folder, capsys, words):
    if words[0] == "duplicates":
        shutil.copy("checkpoints/a.safetensors", "checkpoints/copy.safetensors")
        assert main(["update", "--index", "zoo.index"]) == 0
        capsys.readouterr()
    if words[0] == "verify":
        next(Path("zoo.index").glob("weights-*")).write_bytes(b"x")
    assert main([*words, "--format", "json"]) == (1 if words[0] == "verify" else 0)
    told = json.loads(capsys.readouterr().out)
    assert told["wsrl"] == 1 and told["command"] == words[0] and told["results"]
    keys = {key for record in [*told["results"], *told.get("about", ())] for key in record}
    assert keys <= documented_keys(words[0])


def test_keys_of_every_command_are_documented():
    assert all(f"`{command}`" in section("Keys") for command in COMMANDS)


def test_every_exit_status_is_on_the_page():
    documented = {int(status) for status in re.findall(r"^\| (\d+) \|", section("Exit status"), re.MULTILINE)}
    trouble = {getattr(module, "TROUBLE", 1) for module in MODULES.values()}
    assert documented == {0, 1, 2, command_line.INTERRUPTED, command_line.PIPE_CLOSED} and trouble <= documented


def test_every_format_is_on_the_page():
    assert set(re.findall(r"^\| `(\w+)` \|", section("Output"), re.MULTILINE)) == set(FORMATS)


RECORDS = [{"id": "a\tb", "n": 1, "more": {"x": None}}, {"id": "c", "n": None, "more": [1.5, True]}]
PRINTED = {
    "auto": 'id\tn\tmore\na\\tb\t1\t{"x": null}\nc\t\t[1.5, true]\n',
    "human": "people\n",
    "json": '{"wsrl": 1, "command": "search", "about": [{"k": 2}], "results": '
    '[{"id": "a\\tb", "n": 1, "more": {"x": null}}, {"id": "c", "n": null, "more": [1.5, true]}]}\n',
    "jsonl": '{"wsrl": 1, "k": 2}\n{"wsrl": 1, "id": "a\\tb", "n": 1, "more": {"x": null}}\n'
    '{"wsrl": 1, "id": "c", "n": null, "more": [1.5, true]}\n',
    "ids": "a\\tb\nc\n",
}


@pytest.mark.parametrize("form", FORMATS)
def test_records_in_each_format(capsys, form):
    with Output("search", form) as output:
        output.table(RECORDS, lambda: print("people"), {"k": 2})
    assert capsys.readouterr() == (PRINTED["auto" if form == "tsv" else form], "")


def test_a_terminal_gets_what_people_read(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with Output("search", "auto") as output:
        output.table(RECORDS, lambda: print("people"))
        output.table(RECORDS, lambda: print("people"))
    assert capsys.readouterr().out == "people\n\npeople\n"


def test_an_error_prints_no_json(capsys):
    with pytest.raises(ValueError), Output("search", "json") as output:
        output.table(RECORDS, print)
        raise ValueError
    assert capsys.readouterr().out == ""


def test_colors_are_left_out_where_they_are_not_wanted(folder, capsys, monkeypatch):
    tensors = {"0.weight": np.ones((4, 3), np.float32), "0.bias": np.ones(4, np.float32)}
    np.savez("net.npz", **tensors)
    colored = re.compile(r"\x1b\[(?:[\d;]*;)?[34][0-7]m")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    for words in (["inspect", "net.npz"], ["search", "model.safetensors", "--index", "zoo.index"]):
        assert main([*words, "--format", "human"]) == 0
        assert not colored.search(capsys.readouterr().out)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_and_options(capsys, shell):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS) and "same-architecture" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes(capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def complete(*words: str) -> list[str]:
        line = shlex.join(["wsrl", *words])
        function = re.search(r"-F (\w+) wsrl", script)[1]
        last = words[-1]
        call = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; {function} wsrl {shlex.quote(last)} wsrl"
        done = subprocess.run(
            ["bash", "-c", call + '\nprintf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert complete("ver") == ["verify"]
    assert complete("search", "m.pt", "--same") == ["--same-architecture"]


def test_completion_without_its_extra_is_told(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "pip install 'wsrl[completion]'" in capsys.readouterr().err
