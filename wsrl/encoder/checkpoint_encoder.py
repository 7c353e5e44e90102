"""From checkpoints to what an encoder says of them: the one road that every command and experiment takes.

source -> Checkpoint -> Wiring -> weights vector                        any network, a tensor at a time
                     -> programs -> function vector             small networks that can be run, many at a time
                     -> operators -> function vector            larger and other ones that tell theirs, one at a time
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

from wsrl.checkpoint import Checkpoint, CheckpointError, unexpected
from wsrl.embedded import Embedded
from wsrl.encoder import answer_vector
from wsrl.encoder.files import PRETRAINED, file_hash, read_shape
from wsrl.program.program import Program
from wsrl.program.read import RUN_BELOW, read_programs
from wsrl.readers import open_checkpoint
from wsrl.readers.declared import named_bases
from wsrl.signature import weights_vector
from wsrl.signature.digest import content_digest
from wsrl.signature.weights_vector import Signature, sign
from wsrl.wiring.remembered import remembered_wiring
from wsrl.wiring.wiring import Wiring

if TYPE_CHECKING:
    from wsrl.encoder.answers import AnswerEncoder
    from wsrl.encoder.function_encoder import FunctionEncoder, FunctionVector

WINDOW = 256  # checkpoints whose functions are embedded together
HELD = 2**26  # parameters of them that wait in memory for the others

Hints = Mapping[str, object]


@dataclass(frozen=True)
class _Opened:
    """A checkpoint before its function is known: its row, and its weights where it can be run."""

    row: Embedded
    checkpoint: Checkpoint | None = None
    programs: Sequence[Program] = ()


class Encoder:
    """Embeds checkpoints. Get one with `wsrl.load_encoder`.

    Args:
      directory: holds a trained encoder of functions, see `wsrl.encoder.files`.

    Attributes:
      hash: SHA-256 of all that makes the vectors; vectors of another encoder do not compare.
      weights_dim, function_dim: lengths of the two vectors.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.weights_dim = weights_vector.DIM
        self._functions: FunctionEncoder | None = None
        self._answers: AnswerEncoder | None = None
        self._threads = ThreadpoolController()  # looks for libraries once, which takes as long as to read a small file

    @property
    def hash(self) -> str:
        """See the class."""
        parts = weights_vector.version_hash(), file_hash(self.directory), answer_vector.VERSION
        return sha256(" ".join(map(str, parts)).encode()).hexdigest()

    @property
    def function_dim(self) -> int:
        """See the class."""
        return int(read_shape(self.directory)["dim"])

    def embed(
        self,
        sources: Iterable[str | Path],
        hints: Mapping[str, Hints] | None = None,
        function: bool = True,
        progress: bool = False,
    ) -> Iterator[Embedded | CheckpointError]:
        """Yields, in the order of the sources, what is known of each, or why it cannot be used.

        Args:
          sources: what `wsrl.readers.open_checkpoint` takes; they become the ids.
          hints: for a source, what its file does not say: `activation`, `input_shape`, `strides`, `heads`, as in the
            manifest of a zoo. They outrank the file's own metadata.
          function: whether to run networks.
          progress: show a progress line on stderr.
        """
        line = tqdm(desc="embedding", unit="model", disable=not progress, mininterval=1.0)
        with line:
            remaining = iter(sources)
            while window := list(islice(remaining, WINDOW)):
                opened: list[_Opened | CheckpointError] = []
                held = 0
                for source in window:
                    own = self._open(str(source), (hints or {}).get(str(source), {}), function)
                    opened.append(own)
                    line.update()
                    held += own.row.parameters if isinstance(own, _Opened) and own.checkpoint is not None else 0
                    if held > HELD:
                        yield from self._with_functions(opened)
                        opened, held = [], 0
                yield from self._with_functions(opened)

    def _open(self, source: str, hints: Hints, function: bool) -> _Opened | CheckpointError:
        """Does all but run the network; whatever goes wrong becomes an error that names the source."""
        try:
            checkpoint = open_checkpoint(source)
            wiring = remembered_wiring(checkpoint)
            with self._threads.limit(limits=1):  # matrices are small or thin, and threads would wait for busy cores
                signature = sign(checkpoint, wiring)
            row = _row(source, checkpoint, wiring, signature)
            if not function:
                return _Opened(replace(row, no_function="not asked for"))
            return self._prepare(row, checkpoint, hints)
        except CheckpointError as error:
            return error
        except Exception as error:  # a file must not end a run, whatever it holds
            return unexpected(source, error)

    def _prepare(self, row: Embedded, checkpoint: Checkpoint, hints: Hints) -> _Opened:
        """Reads the weights of a network that can be run as a program; runs others by their operators."""
        if row.parameters > RUN_BELOW:
            return self._answered(row, checkpoint, f"more than {RUN_BELOW:,} parameters")
        try:
            programs = read_programs(checkpoint, hints)
        except CheckpointError as error:
            return self._answered(row, checkpoint, error.reason)
        tensors = {name: np.asarray(tensor, np.float32) for name, tensor in checkpoint.tensors.items()}
        return _Opened(row, replace(checkpoint, tensors=tensors), programs)

    def _answered(self, row: Embedded, checkpoint: Checkpoint, reason: str) -> _Opened:
        """Runs a network by its operators; where its file does not tell them, it has no function for a `reason`."""
        try:
            found = self._load_answers()(checkpoint)
        except CheckpointError as error:
            return _Opened(replace(row, no_function=error.reason))
        except Exception as error:  # what goes wrong there leaves the weights vector as it is
            return _Opened(replace(row, no_function=unexpected(row.id, error).reason))
        if found is None:
            return _Opened(replace(row, no_function=reason))
        return _Opened(replace(row, architecture=found.kind, function=found.vector, assumed=found.assumed))

    def _with_functions(self, opened: list[_Opened | CheckpointError]) -> Iterator[Embedded | CheckpointError]:
        """Runs the networks of a window that can be run."""
        networks = [
            (own.checkpoint, own.programs) for own in opened if isinstance(own, _Opened) and own.checkpoint is not None
        ]
        functions = iter(self._functions_of(networks) if networks else [])
        for own in opened:
            if isinstance(own, CheckpointError):
                yield own
            elif own.checkpoint is None:
                yield own.row
            else:
                yield _with_function(own.row, next(functions))

    def _functions_of(
        self, networks: list[tuple[Checkpoint, Sequence[Program]]]
    ) -> "list[FunctionVector | CheckpointError]":
        """Runs networks together or, if that fails, one by one, to find the one with which it does."""
        encoder = self._load()
        try:
            return list(encoder(networks))
        except Exception as error:
            if len(networks) == 1:
                return [unexpected(networks[0][0].path, error)]
        return [found for network in networks for found in self._functions_of([network])]

    def _load(self) -> "FunctionEncoder":
        if self._functions is None:
            from wsrl.encoder.function_encoder import FunctionEncoder

            self._functions = FunctionEncoder(self.directory)
        return self._functions

    def _load_answers(self) -> "AnswerEncoder":
        if self._answers is None:
            from wsrl.encoder.answers import AnswerEncoder

            self._answers = AnswerEncoder(self.directory)
        return self._answers


def load_encoder(directory: str | Path | None = None) -> Encoder:
    """Loads the encoder of the package, or that of a run.

    Args:
      directory: e.g. `runs/zoo/encoder_0`; None for the encoder of the package.

    Raises:
      InputError: the folder holds no encoder.
    """
    path = PRETRAINED if directory is None else Path(directory)
    read_shape(path)
    return Encoder(path)


def _with_function(row: Embedded, found: "FunctionVector | CheckpointError") -> Embedded:
    """Adds what is known of a network's function."""
    if isinstance(found, CheckpointError):
        return replace(row, no_function=found.reason)
    return replace(row, architecture=found.kind, function=found.vector, accuracy=found.accuracy, assumed=found.assumed)


def _row(source: str, checkpoint: Checkpoint, wiring: Wiring, signature: Signature) -> Embedded:
    return Embedded(
        id=source,
        content_digest="" if source.startswith("hf://") else content_digest(source),
        weights_digest=signature.digest,
        architecture=str(checkpoint.config.get("model_type") or ""),
        parameters=wiring.parameters,
        weights=signature.vector,
        function=None,
        no_function="",
        accuracy=None,
        assumed=(),
        tensors=signature.tensors,
        warnings=(*checkpoint.warnings, *wiring.warnings),
        unread=sum(checkpoint.unread.values()),
        declared=named_bases(checkpoint.metadata, source),
    )
