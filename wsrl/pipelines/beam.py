"""Embeds checkpoints by the hundred thousand with Apache Beam, and makes an index of what was embedded.

python -m wsrl.pipelines.beam SOURCE... --out DIR [--index DIR] [options of Beam's runner]

Options that are not listed here are Beam's, such as --runner=FlinkRunner or --direct_num_workers=8; see
https://beam.apache.org/documentation/runners. The same command goes on with a run that was killed.
"""

import argparse
import sys
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from wsrl.cli.changes import report
from wsrl.cli.finish import finish
from wsrl.cli.names import SOURCES, given, index_place
from wsrl.cli.output import WHOLE, Output, add_format
from wsrl.encoder.checkpoint_encoder import Encoder, load_encoder
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.pipelines import hub
from wsrl.search.file_identity import HUB
from wsrl.search.index import Index

FILTERS = (
    "; hf://owner/* stands for all models of an owner, and ?filter=TAG, &search=TEXT and &limit=N choose among them"
)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser("python -m wsrl.pipelines.beam", description=__doc__, allow_abbrev=False)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("sources", metavar="SOURCE", nargs="+", help=SOURCES + FILTERS)
    made.add_argument("--out", metavar="DIR", required=True, help="receives the parts: a folder, or gs://bucket/folder")
    where = "folder of the index, or a vector store: milvus://..., FILE.db, qdrant://...; by default OUT/index"
    made.add_argument("--index", metavar="DIR", type=index_place, help=where)
    made.add_argument("--encoder", metavar="DIR", type=Path, help="of a run of the main job, on every worker")
    made.add_argument("--batch", metavar="N", type=int, default=64, help="models that are embedded together (64)")
    made.add_argument("--no-index", action="store_true", help="write the parts alone")
    add_format(made, WHOLE)
    made.set_defaults(command="beam")
    return made


def run(
    sources: Sequence[str],
    out: str,
    index: str | Path | None,
    make_encoder: Callable[[], Encoder] = load_encoder,
    batch: int = 64,
    options: Sequence[str] = (),
) -> Index | None:
    """Embeds what the parts in a folder do not hold, and makes an index of all that sources stand for.

    Args:
      sources: files, folders, and addresses of the hub, filters too; see `wsrl.pipelines.listing.listed`.
      out: receives the parts; see `wsrl.pipelines.parts`.
      index: folder of the index, or the address of a vector store; None to make none.
      make_encoder: called here and by each worker.
      batch: models that are embedded together, at most.
      options: of Beam's runner.

    Returns:
      The index, with its `changes`; None if none was made.

    Raises:
      InputError: a source is not there, no checkpoint can be used, or `out` or the index is of another encoder.
    """
    beam = require("apache_beam", "beam")
    from wsrl.pipelines import parts, stages  # which import Beam
    from wsrl.pipelines.last_step import Run, index_run, store_run

    if batch < 1:
        raise InputError("--batch", f"{batch} is too small", "give 1 or more")
    for name in sources:
        if hub.is_filter(name):
            hub.Filter.parse(name)
        elif not name.startswith(HUB) and not Path(name).exists():
            raise InputError(name, "is not there", "check the path")
    encoder = make_encoder()
    before = parts.read_run(out)
    if before and before["encoder"] != encoder.hash:
        reason = f"holds vectors of the encoder {before['encoder'][:12]}, not of {encoder.hash[:12]}"
        raise InputError(out, reason, "name that encoder by --encoder, or another --out")
    parts.write_run(out, encoder.hash, before.get("run", ""))
    job = stages.Job(out, uuid.uuid4().hex[:12], make_encoder, batch)
    local = [name for name in sources if not name.startswith(HUB)]
    names = [*([local] if local else []), *([name] for name in sources if name.startswith(HUB))]
    with beam.Pipeline(options=beam.options.pipeline_options.PipelineOptions(list(options))) as pipeline:
        stages.build(pipeline, job, names)
    parts.write_run(out, encoder.hash, job.run)
    former = [path for kind in parts.OF_RUNS for path in parts.find_parts(out, kind) if f"/{job.run}/" not in path]
    parts.delete_parts(former)
    if index is None:
        return None
    done = Run.read(out, job.run, encoder.hash)
    return store_run(done, encoder, index) if isinstance(index, str) else index_run(done, sources, index)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 1 if the input is bad, 130 if it was interrupted, each in one line."""
    args, options = parser().parse_known_args(argv)
    index = None if args.no_index else args.index or Path(args.out) / "index"
    make_encoder = partial(load_encoder, args.encoder)

    def job() -> int:
        if index and not args.index and "://" in args.out:
            raise InputError("--index", "is missing, and --out is no folder", "name a folder, or give --no-index")
        made = run(given(args.sources), args.out, index, make_encoder, args.batch, options)
        if made is None:
            return 0
        with Output.of(args) as output:
            return report(output, made)

    return finish(job)


if __name__ == "__main__":
    sys.exit(main())
