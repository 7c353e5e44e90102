"""Proves that image classifiers whose files hold no graph are run as their libraries run them.

    python -m experiments.proofs.families [--models torchvision/resnet50,timm/regnety_002] [--json FILE]

Each model is built with random weights and statistics and saved as its library saves it. The file is opened and its
operators are written down, with the `config.json` beside it where there is one, and without; they are run on images
with the spectrum of natural ones, and the logits must be those of the library's own module. The exit status is
1 if a network that was written down gives other logits; where what a bare file leaves open was assumed otherwise than
the model has it, the table says `assumed`. Needs the extra `permcheck` and torchvision. Columns:

    file      `config` or `bare`
    error     of the logits, relative and Euclidean
    own       error of the library's own logits in float32 against float64, where the error is not below 1e-4
    contrast  difference between the logits of two images, relative: an error far below it tells that all of the
              network was compared
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.files import write_atomically
from wsrl.forward.families.recognize import family_graph
from wsrl.forward.graph import ForwardGraph
from wsrl.forward.run import run
from wsrl.readers import open_checkpoint

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-4  # relative error of the logits
ROUNDING = 3  # times the error that the library's own logits have in float32: so large an error tells nothing
IMAGES = 2
SEED = 0
WIDTH = 180  # characters of a line of the table
SHIFT = 1.0  # added to the shifts of batch norms, so that most units of random networks pass on what they read


@dataclass(frozen=True)
class Verdict:
    """What became of one file.

    Attributes:
      status: `same`, `other`, `assumed` (other, and a bare file), `rounding` (other, but so are the library's own in
        float32, against float64) or `refused`.
      told: why it was refused, or what was assumed and from where.
      error, own, contrast: see the module's docstring; None where it was refused or there is none.
    """

    model: str
    file: str
    status: str
    told: str
    pixels: int | None = None
    error: float | None = None
    own: float | None = None
    contrast: float | None = None
    seconds: float = 0.0


def natural_images(shape: Sequence[int | None], seed: int = SEED) -> Float[np.ndarray, "n channels height width"]:
    """Images [channels, height, width] of unit variance whose amplitudes fall as the frequency (Field 1987)."""
    channels, height, width = (n or 1 for n in shape)
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / max(height, width)
    noise = rng.normal(size=(IMAGES, channels, height, width))
    images = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    return (images / images.std()).astype(np.float32)


def prove(name: str) -> Iterator[Verdict]:
    """Yields the verdicts about the files of a model: with its configuration, if its library writes one, and bare."""
    torch = require("torch", "permcheck")
    from experiments.proofs import image_classifiers

    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        model = image_classifiers.build(name).float()
        path = image_classifiers.save(model, Path(folder))
        config = path.with_name("config.json")
        for file in ("config", "bare") if config.is_file() else ("bare",):
            start = time.process_time()
            if file == "bare":
                config.unlink(missing_ok=True)
            try:
                graph, _ = family_graph(open_checkpoint(path))
            except CheckpointError as error:
                yield Verdict(name, file, "refused", error.reason)
                continue
            if file == "config" or not config.is_file():
                _randomise(model, graph)
                image_classifiers.save(model, Path(folder))
                if file == "bare":
                    config.unlink(missing_ok=True)
            checkpoint = open_checkpoint(path)
            yield _compared(name, file, model, checkpoint, start)


def _randomise(model: "nn.Module", graph: ForwardGraph) -> None:
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from experiments.proofs.random_model import measure_batch_norms, randomise

    randomise(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.bias is not None:
                module.bias += SHIFT
        measure_batch_norms(model, (torch.from_numpy(natural_images(graph.input_shape)),))


def _compared(name: str, file: str, model: Any, checkpoint: Checkpoint, start: float) -> Verdict:
    import torch

    from experiments.proofs.random_model import logits_of

    graph, facts = family_graph(checkpoint)
    images = natural_images(graph.input_shape, SEED + 1)
    found = run(graph, checkpoint, images)
    with torch.no_grad():
        inputs = (torch.from_numpy(images),)
        right = logits_of(model.float().eval(), inputs).numpy()
        error = _error(found, right) if found.shape == right.shape else np.inf
        exact = None if error < TOLERANCE else logits_of(model.double(), inputs).numpy()
        model.float()
    if right.shape != found.shape:
        raise RuntimeError(f"{name}: logits {found.shape} instead of {right.shape}")
    own = None if exact is None else _error(right, exact)
    status = "same" if error < TOLERANCE else "assumed" if file == "bare" else "other"
    if own is not None and TOLERANCE <= error < ROUNDING * own:
        status = "rounding"
    told = ", ".join(f"{key} {fact.value}" for key, fact in facts.items() if fact.source == "assumed")
    return Verdict(
        model=name,
        file=file,
        status=status,
        told=told,
        pixels=graph.input_shape[-1],
        error=error,
        own=own,
        contrast=_error(right[0], right[1]),
        seconds=time.process_time() - start,
    )


def _error(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def print_table(verdicts: Sequence[Verdict]) -> None:
    """Prints a line a file, and counts of models."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("model", "file", "status"):
        table.add_column(heading, no_wrap=True)
    for heading in ("pixels", "error", "own", "contrast", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("assumed, or why refused")
    for v in verdicts:
        figures = ("-" if n is None else f"{n:.0e}" for n in (v.error, v.own, v.contrast))
        style = {"same": None, "assumed": "yellow", "rounding": "yellow"}.get(v.status, "red")
        row = (v.model, v.file, v.status, str(v.pixels or "-"), *figures, f"{v.seconds:.1f}", v.told)
        table.add_row(*row, style=style)
    console = Console(highlight=False, markup=False, width=WIDTH)
    console.print(table)
    for file in ("config", "bare"):
        own = [v for v in verdicts if v.file == file]
        same = sum(v.status == "same" for v in own)
        console.print(f"{file}: the logits of {same} of {len(own)} models are the library's")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and returns the exit status: 1 if a network was written down wrongly, or the input is bad."""
    prog = "python -m experiments.proofs.families"
    parser = argparse.ArgumentParser(prog=prog, description="Proves that image classifiers are run rightly.")
    parser.add_argument("--models", metavar="NAME,...", help="e.g. torchvision/resnet50, timm/NAME; by default a list")
    parser.add_argument("--json", metavar="FILE", help="for the verdicts")
    args = parser.parse_args(argv)
    verdicts: list[Verdict] = []
    try:
        require("torch", "permcheck")
        from experiments.proofs.image_classifiers import NAMES

        names = args.models.split(",") if args.models else NAMES
        with tqdm(names, unit="model") as progress:
            for name in progress:
                progress.set_description(name)
                verdicts += prove(name)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_table(verdicts)
    if args.json:
        write_atomically(Path(args.json), json.dumps([asdict(v) for v in verdicts], indent=2).encode())
    return 1 if any(v.status == "other" for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
