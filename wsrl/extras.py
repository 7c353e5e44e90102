"""Optional packages: imported where they are needed, so that the core installs and starts light."""

from importlib import import_module
from types import ModuleType

from wsrl.errors import InputError


def require(module: str, extra: str) -> ModuleType:
    """Imports a module of a package that only an extra of wsrl installs.

    Args:
      module: dotted name, e.g. `sklearn.cluster`.
      extra: of `setup.py`, e.g. `train`.

    Raises:
      InputError: the package is not installed; names the extra.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:  # the package is there, but something below it is not
            raise
        raise InputError(package, "this optional package is not installed", install(extra)) from error


def install(extra: str) -> str:
    """The command that installs an extra, as errors give it."""
    return f"pip install 'wsrl[{extra}]'"
