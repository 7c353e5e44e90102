"""Every command of the README and of docs is run by a test, or checked here without being run."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import ml_collections
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from small_zoo import write_zoo
from test_job import COMMAND, TABLES

from experiments.proofs.samples import perceptron_file
from wsrl.cli.main import command_parser, main
from wsrl.pipelines.beam import parser as pipeline_parser

# ml_collections reads configuration files by a method that Python will drop
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).parents[1]
SHELLS = ("sh", "bash", "shell", "console")


def fences(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```([^\n`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Simple commands of the shell blocks, continued lines joined, && taken apart, comments left out."""
    lines = []
    for language, content in fences(text):
        if language.strip() in SHELLS:
            lines += content.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "&&", "||", "|", "&"):
                found += [shlex.join(words)] if words else []
                words = []
            else:
                words.append(word)
    return found


def check_main_job(words: list[str]) -> None:
    """The configuration loads and has the fields that the flags set; test_job and test_transfer run tiny ones."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=words)
    workdir = flags.DEFINE_string("workdir", "runs/zoo", "", flag_values=values)
    flags.DEFINE_string("coordinator", "", "", flag_values=values)
    for name in ("processes", "process_id"):
        flags.DEFINE_integer(name, None, "", flag_values=values)
    rest = values(words)
    assert rest == words[:1], "arguments that are no flags"
    assert isinstance(config.value, ml_collections.ConfigDict), "no configuration"
    assert workdir.value


def check_launch(words: list[str]) -> None:
    """Its dry run succeeds."""
    script, *arguments = words
    done = subprocess.run([ROOT / script, "--dry-run", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def check_pipeline(words: list[str]) -> None:
    """Its arguments are known; test_pipeline runs it."""
    assert not pipeline_parser().parse_known_args(words)[1]


def check_ci(words: list[str]) -> None:
    """`.ci/run` runs it, as it stands there."""
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert words in [shlex.split(line, comments=True) for line in script if "$" not in line]


def check_install(words: list[str]) -> None:
    """As `.ci/run` does, perhaps with other extras, which setup.py must name."""
    assert words[:-1] == ["pip", "install", "-e"]
    target = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[-1])
    assert target, f"cannot install {words[-1]}"
    extras = target[1].split(",") if target[1] else []
    setup = (ROOT / "setup.py").read_text()
    assert all(re.search(rf'"{extra}"(: |\] = )\[', setup) for extra in extras), "no such extra"


def check_module(name: str) -> None:
    """The module exists; its parts are run by its own test."""
    assert find_spec(name), "no such module"
    assert (ROOT / "tests" / f"test_{name.rpartition('.')[2]}.py").exists(), "no test runs its parts"


def check_table(name: str) -> None:
    """test_job makes it from a tiny run."""
    assert name in TABLES


def check_wsrl(command: str) -> None:
    """Its arguments are known; test_the_commands_of_wsrl_run runs it."""
    words = shlex.split(command.partition(" '>' ")[0])
    assert command_parser(words[1:2]).parse_args(words[1:])


CHECKS: list[tuple[str, Callable[[list[str]], None]]] = [
    (r"python -m experiments\.(main|transfer)( .*)?", lambda words: check_main_job(words[2:])),
    (
        r"python -m experiments\.(benchmarks|proofs)\.\w+( .*)?"
        r"|python -m experiments\.tables\.(identity|leave_one_out|relations|duplicates|robustness)( .*)?"
        r"|python -m experiments\.tables\.(relation_early_stop|provenance_kit)( .*)?"
        r"|python -m experiments\.tables\.(recommendation|finetuning|scaling|lineage|labeled_files)( .*)?"
        r"|python -m experiments\.tables\.architecture_choice( .*)?"
        r"|python -m experiments\.scale( .*)?",
        lambda words: check_module(words[2]),
    ),
    (
        r"python -m experiments\.(trees\.(build|texts)|tables\.model_tree) .*",
        lambda words: check_module("experiments.tables.model_tree"),  # whose test builds trees
    ),
    (
        r"python -m experiments\.tables\.(ablations|oracle|accuracy|bare_files|fewer_sets) --workdir=\S+"
        r"( --encoder=\S+)*",
        lambda words: check_table(words[2].rpartition(".")[2]),
    ),
    (r"eval '\$\(wsrl completion \w+\)'", lambda words: check_wsrl(words[1][2:-1])),
    (r"launch/(tpu_vm|dataflow)\.sh .*", check_launch),
    (r"python -m wsrl\.pipelines\.beam .*", lambda words: check_pipeline(words[3:])),
    (r"pip install .*", check_install),
    (r"pytest|pyright|ruff .*", check_ci),
]


def check(command: str) -> None:
    """Raises AssertionError, or absl's or ml_collections' error, for a command that is covered nowhere or wrong."""
    for pattern, checker in CHECKS:
        if re.fullmatch(pattern, command):
            return checker(shlex.split(command))
    if command.startswith("wsrl "):
        return check_wsrl(command)
    raise AssertionError(f"README.md: nothing runs or checks {command!r}; add a test or a check")


README = (ROOT / "README.md").read_text()
DOCS = "".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("command", dict.fromkeys(commands(README + DOCS)))
def test_every_command_is_covered(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    check(command)


def test_the_tiny_command_is_the_one_that_test_job_runs():
    tiny = [shlex.split(c) for c in commands(README) if "configs/tiny.py" in c]
    assert [words[: len(COMMAND)] for words in tiny] == [COMMAND] * len(tiny)
    assert tiny


def test_the_main_commands_stand_in_the_readme():
    lines = [line for language, content in fences(README) if language in SHELLS for line in content.splitlines()]
    assert "pip install -e '.[train,report]' && python -m experiments.main --config=configs/zoo.py" in lines
    assert "pip install -e '.[test]' && pytest" in lines


def test_the_commands_of_wsrl_run(tmp_path, monkeypatch, capsys):
    """In a folder with files of the names that the README gives; a model of the hub and an encoder of one's own have
    tests of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    perceptron_file(tmp_path / "mlp.safetensors", seed=0)
    perceptron_file(tmp_path / "model.safetensors", seed=1)
    for folder in ("zoo", "runs/zoo/zoo"):
        write_zoo(tmp_path / folder)
    rng = np.random.default_rng(0)
    np.savez("task.npz", x=rng.integers(0, 256, (40, 8, 8)).astype(np.uint8), y=np.arange(40) % 4)
    run = [c for c in commands(README) if c.startswith("wsrl ") and "hf://" not in c and "--encoder runs" not in c]
    assert len(run) >= 6
    for command in run:
        words, _, target = command.partition(" '>' ")
        assert main(shlex.split(words)[1:]) == 0
        printed = capsys.readouterr().out
        if target:
            (tmp_path / target.strip()).write_text(printed)
        if command == "wsrl inspect mlp.safetensors":
            assert printed.strip() in README, "the README shows another output"
    assert (tmp_path / "layers.svg").exists() and (tmp_path / "embeddings.npz").exists()


def test_every_block_names_its_language():
    assert all(language.strip() for language, _ in fences(README))


def test_ci_runs_the_test_command():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert script[-1] == "pytest"
    assert "pip install -e '.[test]'" in script
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["filterwarnings"]


def test_commands_are_found_in_all_shell_blocks():
    text = "```sh\na 'b c' && d \\\n  --e=1  # why\n# alone\n```\n```python\nx\n```\n```bash\nf | g; h\n```\n"
    assert commands(text) == ["a 'b c'", "d --e=1", "f", "g", "h"]


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf runs",
        "python -m experiments.other",
        "python -m experiments.main --config=configs/zoo.py --config.zoo.nonsense=1",
        "python -m experiments.main --config=configs/none.py",
        "python -m experiments.main --config=configs/zoo.py runs/zoo",
        "python -m experiments.main --config=configs/zoo.py --nonsense=1",
        "pip install -e '.[none]'",
        "ruff check --fix .",
        "launch/tpu_vm.sh --nonsense",
    ],
)
def test_a_command_that_is_wrong_or_not_covered_fails(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, flags.Error, KeyError, AttributeError)):
        check(command)
