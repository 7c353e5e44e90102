"""An encoder without any learning, and files for it: a checkpoint's tensors `w` and `f` are its two vectors."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from wsrl.checkpoint import CheckpointError
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.readers import open_checkpoint
from wsrl.readers.declared import named_bases
from wsrl.signature.digest import content_digest, tensor_digest, weights_digest

WEIGHTS, FUNCTION = 16, 12


class FakeEncoder(Encoder):
    """Notes in `embedded` what it was asked to embed, and in `hinted` with which hints."""

    hash = "f" * 64
    weights_dim, function_dim = WEIGHTS, FUNCTION

    def __init__(self):
        self.embedded: list[str] = []
        self.hinted: dict[str, Mapping[str, object]] = {}

    def embed(
        self,
        sources: Iterable[str | Path],
        hints: Mapping[str, Mapping[str, object]] | None = None,
        function: bool = True,
        progress: bool = False,
    ) -> Iterator[Embedded | CheckpointError]:
        for source in sources:
            self.embedded.append(str(source))
            if hints and str(source) in hints:
                self.hinted[str(source)] = hints[str(source)]
            try:
                yield self._row(str(source), function)
            except CheckpointError as error:
                yield error

    def _row(self, source: str, function: bool) -> Embedded:
        checkpoint = open_checkpoint(source)
        tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
        first = np.concatenate([tensor.ravel() for tensor in tensors.values()])[:WEIGHTS]
        own = tensors.get("f") if function else None
        return Embedded(
            id=source,
            content_digest=content_digest(source),
            weights_digest=weights_digest(map(tensor_digest, tensors.values())),
            architecture=str(checkpoint.metadata.get("architecture", "")),
            parameters=sum(tensor.size for tensor in tensors.values()),
            weights=unit(np.pad(tensors.get("w", first), (0, WEIGHTS))[:WEIGHTS]),
            function=None if own is None else unit(own),
            no_function="" if own is not None else "it cannot be run",
            accuracy=None if own is None else float(1 / (1 + np.exp(-own[0]))),
            assumed=("activation: relu",),
            declared=named_bases(checkpoint.metadata, source),
            tensors={name: np.full(13, i, np.float32) for i, name in enumerate(tensors)},
        )


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def write_model(path: Path, seed: int, function: bool = True, architecture: str = "relu mlp", **metadata: str) -> None:
    """Writes a checkpoint of random vectors."""
    rng = np.random.default_rng(seed)
    tensors = {"w": rng.normal(size=WEIGHTS).astype(np.float32)}
    if function:
        tensors["f"] = rng.normal(size=FUNCTION).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, path, {"architecture": architecture, **metadata})


def names(folder: Path) -> list[str]:
    """The files of the fixture `models`."""
    return [str(folder / name) for name in ("a.safetensors", "b/c.safetensors", "b/d.safetensors")]
