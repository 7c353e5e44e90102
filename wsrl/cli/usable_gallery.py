"""The models of a zoo that a command can use."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsrl.cli.text import printable
from wsrl.errors import InputError

if TYPE_CHECKING:
    from wsrl.encoder.embed import Embedder
    from wsrl.gallery import Gallery


def usable_gallery(zoo: Path, embedder: "Embedder", params: Any) -> "Gallery":
    """Opens the gallery of a zoo and tells on stderr what was left out.

    Raises:
      InputError: the zoo has no usable manifest, or no model can be used.
    """
    from wsrl.gallery import open_gallery  # needs JAX

    gallery = open_gallery(zoo, embedder, params, progress=True)
    for problem in gallery.problems:
        print(printable(problem), file=sys.stderr)
    if not gallery.records:
        raise InputError(zoo, "no model can be used", "give a zoo of networks that the encoder takes")
    return gallery
