"""Whether the name of an index is the address of a vector store; see `wsrl.vector_stores`."""

from pathlib import Path

from wsrl.search.manifest import MANIFEST

SCHEMES = ("milvus", "qdrant")
LITE = ".db"  # ending of a file of Milvus Lite


def is_address(name: str | Path) -> bool:
    """Whether a name stands for a vector store rather than for a folder."""
    text = str(name)
    if text.partition("://")[0] in SCHEMES and "://" in text:
        return True
    return text.endswith(LITE) and not (Path(text) / MANIFEST).is_file()
