import sys

import pytest

from wsrl.errors import InputError
from wsrl.extras import require


def test_a_module_that_is_there_is_imported():
    assert require("xml.dom.minidom", "test") is sys.modules["xml.dom.minidom"]


def test_a_missing_package_is_named_with_its_extra_in_one_line():
    with pytest.raises(InputError) as error:
        require("no_such_package.part", "train")
    assert str(error.value) == ("no_such_package: this optional package is not installed; pip install 'wsrl[train]'")


def test_what_an_installed_package_lacks_itself_is_not_blamed_on_the_extra(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        require("half_installed", "train")
