"""From checkpoint files to vectors by an encoder of the main job, for the families that it sweeps exactly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsrl.annotations import Graph
from wsrl.checkpoint import CheckpointError, read_checkpoint
from wsrl.embedding import Embeddings, check_sources
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import encoder_hash, load_encoder
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.graph.kind import network_kind

TILE = 16  # neurons; embeddings do not depend on it


def read_graph(source: str) -> Graph:
    """The graph of a checkpoint, for any encoder. Raises CheckpointError as `embed_trained`."""
    return checkpoint_graph(read_checkpoint(source), TILE)


def embed_trained(
    sources: Sequence[str], directory: Path, skip_broken: bool = False, progress: bool = False
) -> tuple[Embeddings, str]:
    """Embeds checkpoints as the main job does.

    Args:
      sources: what `wsrl.readers.open_checkpoint` takes; they become the ids.
      directory: holds `encoder.json` and `encoder.safetensors`, e.g. `runs/zoo/encoder_0`.
      skip_broken: go on where a checkpoint cannot be used.
      progress: show progress lines on stderr.

    Returns:
      The vectors with the kinds of networks and the predicted accuracies, and the hash of the encoder.

    Raises:
      InputError: the encoder cannot be read, a source is given twice, or there is none.
      CheckpointError: a checkpoint cannot be used, or is no network of these families, and `skip_broken` is not set.
    """
    check_sources(sources)
    encoder, params = load_encoder(directory)
    ids, graphs, broken = [], [], []
    for source in tqdm(sources, desc="graphs", unit="model", disable=not progress, mininterval=1.0):
        try:
            graphs.append(read_graph(source))
            ids.append(source)
        except CheckpointError as error:
            if not skip_broken:
                raise
            broken.append(error)
    digest = encoder_hash(encoder, params)
    if not graphs:
        return Embeddings(ids, Embeddings.none(encoder.dim), broken, [], np.zeros(0, np.float32)), digest
    found = Embedder(encoder)(params, make_buckets(graphs), "embedding" if progress else None)
    kinds = [network_kind(graph) for graph in graphs]
    return Embeddings(ids, found.embedding, broken, kinds, found.accuracy), digest
