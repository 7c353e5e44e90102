"""wsrl: search a model zoo by its weights.

A name of `EXPORTS` is imported when it is first used (PEP 562), so that `import wsrl` loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers, which do not look into EXPORTS
    from wsrl.checkpoint import Checkpoint as Checkpoint
    from wsrl.checkpoint import CheckpointError as CheckpointError
    from wsrl.errors import InputError as InputError
    from wsrl.index import Index as Index
    from wsrl.readers import open_checkpoint as open_checkpoint

__version__ = "0.1.0"

EXPORTS = {  # name -> module
    "Checkpoint": "wsrl.checkpoint",
    "CheckpointError": "wsrl.checkpoint",
    "Index": "wsrl.index",
    "InputError": "wsrl.errors",
    "open_checkpoint": "wsrl.readers",
}


def __getattr__(name: str) -> object:
    if name not in EXPORTS:
        raise AttributeError(f"module 'wsrl' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(EXPORTS[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*EXPORTS, "__version__"])
