"""What it costs that a file tells nothing but its tensors.

    python -m experiments.tables.bare_files --workdir=runs/pretrain
    python -m experiments.tables.bare_files --workdir=runs/pretrain --encoder=pretrained --encoder=runs/other/encoder_0

The unseen test networks of a finished run are written as bare PyTorch files, in two styles of names in turn (see
`experiments.tables.torch_form`), and embedded twice by the run's first encoder, or by those that are named: told what
the manifest says of activation, images, strides, pooling and heads, and told nothing. Search is as `wsrl search` does
it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Float32

from experiments.tables.finished_run import FinishedRun, load_run
from experiments.tables.torch_form import STYLES, torch_form
from wsrl.checkpoint import CheckpointError
from wsrl.cli.finish import finish
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.encoder.files import encoder_directory
from wsrl.evaluation.retrieval import retrieval_scores
from wsrl.files import write_atomically
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.search.query_expansion import NEIGHBORS
from wsrl.zoo.load import StoredCheckpoints
from wsrl.zoo.manifest import Record, record_hints

NAME, TITLE = "bare_files", "Bare PyTorch files"
TOLD, BARE = "told", "bare"
TRANSFORMERS = "vit"
SHOWN = {"P@1": "precision_at_1", "mAP": "map"}
NOTE = (
    "{files} networks of {tasks} unseen tasks, on data sets, widths and one family of architectures that the encoder "
    "was not trained on. Brackets: 95 % intervals over lineages."
)


def write_files(run: FinishedRun, records: Sequence[Record]) -> list[Path]:
    """Writes networks of a run as bare PyTorch files, those that are not there, and returns where they lie."""
    paths = []
    for number, (record, checkpoint) in enumerate(zip(records, StoredCheckpoints(run.zoo, records), strict=True)):
        path = run.workdir / NAME / f"{record.id.replace('/', '-')}.safetensors"
        if not path.exists():
            pooled = record.get("pooling") is not None
            arrays = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
            tensors = torch_form(arrays, STYLES[number % len(STYLES)], pooled)
            write_atomically(path, safetensors.numpy.save(tensors))
        paths.append(path)
    return paths


def function_vectors(
    encoder: Path, paths: Sequence[Path], hints: Mapping[str, Mapping[str, object]]
) -> Float32[np.ndarray, "files dim"]:
    """Function vectors of files by an encoder; zero where a file has none, which is told."""
    loaded = load_encoder(encoder)
    vectors = np.zeros((len(paths), loaded.function_dim), np.float32)
    for own, row in zip(vectors, loaded.embed(map(str, paths), hints, progress=True), strict=True):
        if isinstance(row, CheckpointError) or row.function is None:
            print(row if isinstance(row, CheckpointError) else f"{row.id}: {row.no_function}")
        else:
            own[:] = row.function
    return vectors


def table(run: FinishedRun, encoders: Mapping[str, Path]) -> list[Row]:
    """Rows of each encoder, the files told and bare, of all queries and of vision transformers."""
    records = [run.records[i] for i in run.unseen]
    paths = write_files(run, records)
    told = {str(path): record_hints(record) for path, record in zip(paths, records, strict=True)}
    asked = {"all": np.ones(len(records), bool)}
    transformers = np.array([record.architecture == TRANSFORMERS for record in records])
    asked |= {TRANSFORMERS: transformers} if transformers.any() else {}
    rows: list[Row] = []
    for (label, directory), (name, hints) in product(encoders.items(), ((TOLD, told), (BARE, {}))):
        vectors = function_vectors(directory, paths, hints)
        for queries, asking in asked.items():
            scores = retrieval_scores([vectors], records, neighbors=NEIGHBORS, asking=asking)
            rows += [
                {"encoder": label, "files": name, "queries": queries, "gallery": gallery}
                | {shown: scores[gallery].metrics[metric] for shown, metric in SHOWN.items()}
                for gallery in ("same", "cross")
            ]
    return rows


def make_table(workdir: Path, encoders: Sequence[str]) -> None:
    """Writes and prints the table of a finished run: of the encoders that are named, or of its first."""
    run = load_run(workdir)
    rows = table(run, {name: encoder_directory(name) for name in encoders or [str(workdir / "encoder_0")]})
    tasks = len({run.records[i].task for i in run.unseen})
    keys = ("encoder", "files", "queries", "gallery")
    shown = [{**row, "of": ", ".join(str(row[key]) for key in keys)} for row in rows]
    figure = bar_figure(shown, label="of", values=list(SHOWN), axis="unseen tasks")
    write_table(workdir, NAME, TITLE, NOTE.format(files=len(run.unseen), tasks=tasks), rows, figure)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    parser.add_argument(
        "--encoder",
        action="append",
        default=[],
        help="folder, in place of the run's; pretrained is that of the package",
    )
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args.workdir, args.encoder))


if __name__ == "__main__":
    sys.exit(main())
