"""The launch scripts: commands of the dry run, structure and code of the notebook."""

import json
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "launch" / "tpu_vm.sh"
PLACE = "--project=p --zone=z"
TPU = "gcloud compute tpus tpu-vm"
NOTEBOOK = json.loads((ROOT / "launch" / "demo.ipynb").read_text())


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_dry_run_prints_the_commands_in_order():
    done = launch(
        "--dry-run", *PLACE.split(), "--workdir=runs/nowhere/large", "--", "--config.seed=1", "--config.x=a b"
    )
    assert (done.returncode, done.stderr) == (0, "")
    install = "cd wsrl && python3 -m pip install --user uv && python3 -m uv venv --python 3.12 "
    install += "&& python3 -m uv pip install -e '.[train,report]' 'jax[tpu]'"
    job = "cd wsrl && .venv/bin/python -m experiments.main --config=configs/large.py --workdir=runs/nowhere/large "
    job += r"--config.seed=1 --config.x=a\ b"
    assert [shlex.split(line) for line in done.stdout.splitlines()] == [
        ["mkdir", "-p", "build"],
        ["git", "archive", "--format=tar.gz", "--output=build/wsrl.tar.gz", "HEAD"],
        f"{TPU} create wsrl --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite {PLACE}".split(),
        f"{TPU} scp build/wsrl.tar.gz wsrl:wsrl.tar.gz {PLACE}".split(),
        shlex.split(f"{TPU} ssh wsrl --command='mkdir -p wsrl/runs/nowhere && tar -xzf wsrl.tar.gz -C wsrl' {PLACE}"),
        [*f"{TPU} ssh wsrl".split(), f"--command={install}", *PLACE.split()],
        [*f"{TPU} ssh wsrl".split(), f"--command={job}", *PLACE.split()],
        ["mkdir", "-p", "runs/nowhere"],
        f"{TPU} scp --recurse wsrl:wsrl/runs/nowhere/large runs/nowhere {PLACE}".split(),
        f"{TPU} delete wsrl --quiet {PLACE}".split(),
    ]
    assert not (ROOT / "runs" / "nowhere").exists()


def test_options_change_the_commands():
    done = launch("--dry-run", *PLACE.split(), "--name=n", "--type=v6e-1", "--version=v", "--spot", "--keep")
    assert done.returncode == 0
    assert f"{TPU} create n --accelerator-type=v6e-1 --version=v --spot {PLACE}" in done.stdout.splitlines()
    assert "delete" not in done.stdout


def test_a_slice_of_several_hosts():
    done = launch(
        "--dry-run",
        *PLACE.split(),
        "--type=v5litepod-32",
        "--hosts=4",
        "--mount=gcsfuse b wsrl/runs/a",
        "--workdir=runs/a",
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    workers = [[word for word in words if word.startswith("--worker")] for words in lines]
    every, first = ["--worker=all"], ["--worker=0"]
    assert workers == [[], [], [], every, every, every, every, every, first, [], first, []]
    commands = [word.partition("=")[2] for words in lines for word in words if word.startswith("--command")]
    job = ".venv/bin/python -m experiments.main --config=configs/large.py --workdir=runs/a"
    assert commands[1] == "mkdir -p wsrl/runs/a && gcsfuse b wsrl/runs/a"
    assert commands[3:] == [f"cd wsrl && {job} --coordinator=auto", f"cd wsrl && JAX_PLATFORMS=cpu {job}"]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ([*PLACE.split(), "--hosts=0"], "--hosts=0"),
        ([*PLACE.split(), "--hosts=4"], "--mount"),
        (["--zone=z"], "--project"),
        (["--project=p"], "--zone"),
        (["--wrong"], "--wrong"),
        ([*PLACE.split(), "--config=none.py"], "--config=none.py"),
        ([*PLACE.split(), "--workdir=/tmp"], "--workdir=/tmp"),
        ([*PLACE.split(), "--workdir=a/../.."], "--workdir=a/../.."),
    ],
)
def test_bad_options_are_told_in_one_line(arguments: list[str], named: str):
    done = launch("--dry-run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {re.escape(named)}: .*; see .*\n", done.stderr)


def test_a_failed_job_is_fetched_and_its_machine_deleted(tmp_path: Path):
    fake = tmp_path / "gcloud"
    fake.write_text('#!/bin/sh\ncase "$*" in *experiments.main*) exit 3 ;; esac\n')
    fake.chmod(0o755)
    copy = tmp_path / "copy"
    for path in (SCRIPT, SCRIPT.with_name("run.sh"), ROOT / "configs" / "tiny.py"):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "git").symlink_to("/bin/true")
    done = subprocess.run(
        ["bash", copy / "launch" / "tpu_vm.sh", *PLACE.split(), "--config=configs/tiny.py"],
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert done.returncode == 3
    assert [line.split()[4] for line in done.stdout.splitlines() if line.startswith(TPU)] == (
        ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]
    )


DATAFLOW = ROOT / "launch" / "dataflow.sh"
JOB = "--project=p --region=r --bucket=gs://b/f"


def dataflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DATAFLOW, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_the_dry_run_of_dataflow_prints_the_command():
    filtered = "hf://*/*?filter=image-classification&limit=5"
    done = dataflow(
        "--dry-run", *JOB.split(), "--workers=7", "--flexrs", "--", filtered, "hf://owner/name", "--batch=32"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [shlex.split(line) for line in done.stdout.splitlines()] == [
        ["rm", "-rf", "build/dataflow"],
        ["python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "build/dataflow", "."],
        [
            *("python", "-m", "wsrl.pipelines.beam", filtered, "hf://owner/name", "--batch=32"),
            *("--out", "gs://b/f/parts", "--index", "zoo.index"),
            *("--runner=DataflowRunner", "--project=p", "--region=r", "--job_name=wsrl"),
            *("--temp_location=gs://b/f/temp", "--staging_location=gs://b/f/staging"),
            *("--max_num_workers=7", "--worker_machine_type=e2-standard-4", "--disk_size_gb=100"),
            *("--number_of_worker_harness_threads=1", "--experiments=use_runner_v2", "--flexrs_goal=COST_OPTIMIZED"),
            "--extra_package=build/dataflow/wsrl-VERSION-py3-none-any.whl",
            "--requirements_file=launch/dataflow_requirements.txt",
        ],
    ]


def test_beam_and_the_pipeline_know_all_options_of_the_command():
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    from apache_beam.options.pipeline_options import PipelineOptions

    from wsrl.pipelines.beam import parser

    done = dataflow("--dry-run", *JOB.split(), "--flexrs", "--", "hf://a/*", "--batch=8")
    args, rest = parser().parse_known_args(shlex.split(done.stdout.splitlines()[-1])[3:])
    assert (args.sources, args.out, args.index, args.batch) == (["hf://a/*"], "gs://b/f/parts", Path("zoo.index"), 8)
    known = PipelineOptions(rest).get_all_options(drop_default=True)
    names = {word.removeprefix("--").partition("=")[0] for word in rest}
    under = {"worker_machine_type": "machine_type", "extra_package": "extra_packages"}  # Beam's names of these
    assert {under.get(name, name) for name in names} <= set(known)


def test_workers_install_the_extras_of_the_setup():
    lines = (ROOT / "launch" / "dataflow_requirements.txt").read_text().splitlines()[1:]
    setup = (ROOT / "setup.py").read_text()
    for extra in ("hub", "keras", "orbax", "gguf", "parquet"):
        own = re.search(rf'"{extra}": \[(.*?)\]', setup, re.DOTALL)
        assert own and set(re.findall(r'"([^"]+)"', own[1])) <= set(lines)
    assert all(f'"{line}"' in setup for line in lines)


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--region=r", "--bucket=gs://b", "--", "a"], "--project"),
        (["--project=p", "--region=r", "--bucket=b", "--", "a"], "--bucket=b"),
        ([*JOB.split(), "--workers=0", "--", "a"], "--workers=0"),
        (JOB.split(), "SOURCE"),
        ([*JOB.split(), "a"], "a"),
    ],
)
def test_bad_options_of_dataflow_are_told_in_one_line(arguments: list[str], named: str):
    done = dataflow("--dry-run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {re.escape(named)}: .*; see .*\n", done.stderr)


def test_notebook_has_the_structure_of_nbformat_4_and_no_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert set(NOTEBOOK) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    names = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(names)) == len(names)
    for cell in NOTEBOOK["cells"]:
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        assert all(isinstance(line, str) for line in cell["source"])
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert set(cell) == keys | {"outputs", "execution_count"}
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        else:
            assert (cell["cell_type"], set(cell)) == ("markdown", keys)


def code_cells() -> dict[str, str]:
    return {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"}


def test_notebook_opens_with_a_badge_and_installs_in_one_cell():
    first = "".join(NOTEBOOK["cells"][0]["source"])
    assert first.startswith("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]")
    assert first.partition("\n")[0] in (ROOT / "README.md").read_text().splitlines()
    cells = code_cells()
    assert list(cells) == ["install", "embed", "search", "compare"]
    assert [name for name, source in cells.items() if re.search("^[!%]", source, re.MULTILINE)] == ["install"]


def test_notebook_runs_from_cell_to_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    shown: list = []
    display = types.ModuleType("IPython.display")
    display.HTML = lambda filename: Path(filename)  # pyright: ignore[reportAttributeAccessIssue]
    display.display = shown.append  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for source in list(code_cells().values())[1:]:
        exec(source, names)
    told = capsys.readouterr().out
    assert "the same weights: True" in told and "dense" in told.splitlines()[0]
    family = [f"models/{name}-0.safetensors" for name in ("parent", "copy")]
    assert [hit.id for hit in names["hits"][:2]] == family
    assert {hit.id for hit in names["hits"][2:4]} == {f"models/child-0-{n}.safetensors" for n in range(2)}
    assert "models/child-0-0.safetensors" in told and "noise" in told
    assert shown[0].read_text().lower().startswith("<!doctype html>")
