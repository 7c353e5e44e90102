"""Embeds what names stand for, checkpoints in the shards of a zoo included."""

from collections.abc import Iterator, Sequence
from itertools import count, groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from wsrl.checkpoint import CheckpointError
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.search.sources import Source

CHUNK = 1024  # sources given to the encoder at once; those of shards are in files of their own meanwhile


def embed_sources(
    encoder: Encoder, sources: Sequence[Source], function: bool = True
) -> Iterator[tuple[Source, Embedded | CheckpointError]]:
    """Yields each source with what the encoder says of it or why it cannot be used, those of shards last of some 1,000.

    Args:
      encoder: makes the vectors.
      sources: see `wsrl.search.sources.find_sources`.
      function: whether to run networks.
    """
    for start in range(0, len(sources), CHUNK):
        chunk = sources[start : start + CHUNK]
        with TemporaryDirectory(prefix="wsrl-") as folder:
            paths = {source.path: source for source in chunk if source.record is None}
            for source, path in _unpacked(chunk, Path(folder)):
                if isinstance(path, CheckpointError):
                    yield source, path
                else:
                    paths[path] = source
            hints = {path: source.hints for path, source in paths.items() if source.hints}
            for (path, source), row in zip(paths.items(), encoder.embed(list(paths), hints, function), strict=True):
                if isinstance(row, CheckpointError) and path != source.path:
                    row = CheckpointError(f"{source.path}, record {source.record}", row.reason, row.fix)
                yield source, row


def _unpacked(chunk: Sequence[Source], folder: Path) -> Iterator[tuple[Source, str | CheckpointError]]:
    """Writes the checkpoints that lie in shards to files of their own, and yields their paths."""
    number = count()
    in_shards = [source for source in chunk if source.record is not None]
    for shard, group in groupby(in_shards, lambda source: source.path):
        from wsrl.zoo.shards import stream_records  # reads a format that few need

        own = list(group)
        contents = stream_records(Path(shard), [source.record for source in own if source.record is not None])
        for source, content in zip(own, contents, strict=True):
            if isinstance(content, CheckpointError):
                yield source, content
                continue
            path = folder / f"{next(number)}.safetensors"
            path.write_bytes(content)
            yield source, str(path)
