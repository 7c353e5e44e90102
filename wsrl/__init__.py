"""wsrl: search a model zoo by its weights.

A name of `EXPORTS` is imported when it is first used (PEP 562), so that `import wsrl` loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers, which do not look into EXPORTS
    from wsrl.canonical import canonicalize as canonicalize
    from wsrl.checkpoint import Checkpoint as Checkpoint
    from wsrl.checkpoint import CheckpointError as CheckpointError
    from wsrl.comparison.compare import compare as compare
    from wsrl.embedded import Embedded as Embedded
    from wsrl.encoder.checkpoint_encoder import Encoder as Encoder
    from wsrl.encoder.checkpoint_encoder import load_encoder as load_encoder
    from wsrl.errors import InputError as InputError
    from wsrl.origins.duplicates import find_duplicates as find_duplicates
    from wsrl.origins.fingerprint import Fingerprint as Fingerprint
    from wsrl.origins.fingerprint import fingerprint as fingerprint
    from wsrl.origins.identify import identify as identify
    from wsrl.origins.lineage import find_lineage as find_lineage
    from wsrl.readers import open_checkpoint as open_checkpoint
    from wsrl.recommendation.recommend import recommend as recommend
    from wsrl.relative.search import RelativeSearch as RelativeSearch
    from wsrl.search.hit import Hit as Hit
    from wsrl.search.index import Index as Index
    from wsrl.wiring.infer_wiring import infer_wiring as infer_wiring
    from wsrl.wiring.wiring import Wiring as Wiring

__version__ = "0.1.0"

EXPORTS = {  # name -> module
    "Checkpoint": "wsrl.checkpoint",
    "CheckpointError": "wsrl.checkpoint",
    "compare": "wsrl.comparison.compare",
    "Embedded": "wsrl.embedded",
    "Encoder": "wsrl.encoder.checkpoint_encoder",
    "Fingerprint": "wsrl.origins.fingerprint",
    "Hit": "wsrl.search.hit",
    "Index": "wsrl.search.index",
    "InputError": "wsrl.errors",
    "RelativeSearch": "wsrl.relative.search",
    "Wiring": "wsrl.wiring.wiring",
    "canonicalize": "wsrl.canonical",
    "find_duplicates": "wsrl.origins.duplicates",
    "identify": "wsrl.origins.identify",
    "find_lineage": "wsrl.origins.lineage",
    "fingerprint": "wsrl.origins.fingerprint",
    "infer_wiring": "wsrl.wiring.infer_wiring",
    "load_encoder": "wsrl.encoder.checkpoint_encoder",
    "open_checkpoint": "wsrl.readers",
    "recommend": "wsrl.recommendation.recommend",
}


def __getattr__(name: str) -> object:
    if name not in EXPORTS:
        raise AttributeError(f"module 'wsrl' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(EXPORTS[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*EXPORTS, "__version__"])
