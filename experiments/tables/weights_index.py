"""An index without function vectors: comparisons of weights need none, and no network is run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wsrl.checkpoint import CheckpointError
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder, Hints
from wsrl.encoder.files import PRETRAINED
from wsrl.search.index import Index


class _WeightsEncoder(Encoder):
    """The encoder of the package, which runs no network."""

    def embed(
        self,
        sources: Iterable[str | Path],
        hints: Mapping[str, Hints] | None = None,
        function: bool = True,
        progress: bool = False,
    ) -> Iterator[Embedded | CheckpointError]:
        return super().embed(sources, hints, False, progress)


def index_weights(sources: Sequence[Path], directory: Path) -> Index:
    """Makes an index of checkpoints by their weights alone."""
    return Index.build(_WeightsEncoder(PRETRAINED), sources, directory, progress=True)
