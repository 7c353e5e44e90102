import pytest

from wsrl.readers.allowlist import ALLOWED
from wsrl.readers.pickle_names import runs_code


@pytest.mark.parametrize("module", ["os", "os.path", "posix", "torch.hub", "torch.jit.x", "numpy.f2py.x"])
def test_modules_that_run_code(module):
    assert runs_code(module, "anything")


@pytest.mark.parametrize("module", ["torch", "osx", "torch.hubble", "collections", "mypackage.os", "", ".", "os ."])
def test_other_modules(module):
    assert not runs_code(module, "anything")


def test_builtins():
    assert not runs_code("builtins", "set") and not runs_code("__builtin__", "bytearray")
    for name in (
        "eval",
        "exec",
        "getattr",
        "setattr",
        "open",
        "__import__",
        "compile",
        "globals",
        "map",
        "set.__init__",
    ):
        assert runs_code("builtins", name) and runs_code("__builtin__", name)


def test_only_harmless_helpers_are_allowed_in_modules_that_run_code():
    running = {name for name in ALLOWED if runs_code(*name.split(" "))}
    assert all(name.startswith(("torch.jit._pickle ", "torch.serialization _get_layout")) for name in running)
