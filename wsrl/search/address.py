"""Whether the name of an index is the address of a vector store; see `wsrl.vector_stores`."""

from pathlib import Path

SCHEMES = ("milvus", "qdrant")
LITE = ".db"  # ending of a file of Milvus Lite


def is_address(name: str | Path) -> bool:
    """Whether a name stands for a vector store rather than for a folder."""
    text = str(name)
    if text.partition("://")[0] in SCHEMES and "://" in text:
        return True
    if not text.endswith(LITE):
        return False
    from wsrl.search.manifest import MANIFEST  # and NumPy with it, which the parser of the command line does without

    return not (Path(text) / MANIFEST).is_file()
