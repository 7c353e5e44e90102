from pathlib import Path

import pytest

from wsrl.cli.finish import finish
from wsrl.errors import InputError


def interrupted():
    raise KeyboardInterrupt


def refused():
    raise InputError(Path("runs/none"), "holds no run", "name another")


@pytest.mark.parametrize(
    ("job", "status", "told"),
    [
        (lambda: None, 0, ""),
        (refused, 1, "error: runs/none: holds no run; name another\n"),
        (interrupted, 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_a_command_ends_with_one_line_at_most(job, status, told, capsys):
    assert finish(job) == status
    assert capsys.readouterr() == ("", told)


def test_what_is_no_fault_of_the_input_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        finish(lambda: print(1 // 0))
