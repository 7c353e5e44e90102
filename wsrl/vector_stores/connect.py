"""From the address of a vector store to the store."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from wsrl.errors import InputError
from wsrl.vector_stores.vector_store import VectorStore

NAME = "wsrl"  # of an index that its address does not name


def connect(address: str, make: bool) -> tuple[VectorStore, str]:
    """Returns the store of an address, and the name of the index in it.

    Args:
      address: see `wsrl.vector_stores`.
      make: make a local store that is not there.

    Raises:
      InputError: the package of the store is missing, the store is not there or does not answer, or another process
        holds a local one.
    """
    scheme, _, rest = address.partition("://") if "://" in address else ("milvus", "", address)
    place = urlsplit(f"//{rest}" if "://" in address and not rest.startswith("/") else "")
    local = None if place.netloc else Path(rest)
    if local is not None and not make and not local.exists():
        raise InputError(address, "is not there", "make it with `wsrl index`, or check the path")
    if local is not None:
        local.absolute().parent.mkdir(parents=True, exist_ok=True)
    url = f"{os.environ.get(f'{scheme.upper()}_URL_SCHEME', 'http')}://{place.netloc}"
    name = place.path.strip("/") or NAME
    if not name.isidentifier():
        raise InputError(address, f"names an index {name!r}", "use letters, digits and _")
    if scheme == "milvus":
        from wsrl.vector_stores.milvus import Milvus

        return Milvus(address, local, url), name
    from wsrl.vector_stores.qdrant import Qdrant

    return Qdrant(address, local, url), name
