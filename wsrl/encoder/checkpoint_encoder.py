"""From checkpoints to what an encoder says of them: the one road that every command and experiment takes."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wsrl.checkpoint import CheckpointError
from wsrl.embedded import Embedded


class Encoder:
    """Embeds checkpoints. Get one with `wsrl.load_encoder`.

    Attributes:
      hash: SHA-256 of all that makes the vectors; vectors of another encoder do not compare.
      weights_dim, function_dim: lengths of the two vectors.
    """

    hash: str
    weights_dim: int
    function_dim: int

    def embed(
        self,
        sources: Iterable[str | Path],
        hints: Mapping[str, Mapping[str, object]] | None = None,
        function: bool = True,
        progress: bool = False,
    ) -> Iterator[Embedded | CheckpointError]:
        """Yields, in the order of the sources, what is known of each, or why it cannot be used."""
        raise NotImplementedError


def load_encoder(directory: str | Path | None = None) -> Encoder:
    """Loads the encoder of the package, or that of a run, e.g. `runs/zoo/encoder_0`."""
    raise NotImplementedError
