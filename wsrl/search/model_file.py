"""Opens the file that a model of an index was made of."""

from dataclasses import replace
from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.search.catalog import Model
from wsrl.search.file_identity import located


def open_model(directory: Path, model: Model) -> Checkpoint:
    """Opens the file of a model, with the hints that it was embedded with as metadata.

    Args:
      directory: of the index.
      model: of it.

    Raises:
      CheckpointError: the file cannot be used.
    """
    path = located(directory, model.path)
    if model.stat is not None and model.stat.record is not None:
        from wsrl.zoo.shards import read_record  # reads a format that few need
        from wsrl.zoo.storage import parse_checkpoint

        record = model.stat.record
        found = parse_checkpoint(read_record(Path(path), record), f"{path}, record {record}")
        if isinstance(found, CheckpointError):
            raise found
    else:
        found = open_checkpoint(path)
    return replace(found, metadata={**found.metadata, **model.hints})
