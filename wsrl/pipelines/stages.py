"""The stages of the pipeline, as transforms of Beam, and the graph that they make up.

Everything that is written is written by the stage that makes it, a part at a time, so that a run that is killed leaves
what it has done. Beam's own sinks show their files only when the whole pipeline has ended.
"""

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wsrl.checkpoint import CheckpointError
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.pipelines import hub, parts
from wsrl.pipelines.headers import architecture_key, local_header
from wsrl.pipelines.listed import Letter, Listed
from wsrl.pipelines.listing import identified, listed
from wsrl.readers.huggingface import UnreachableError
from wsrl.search.embed import embed_sources
from wsrl.search.file_identity import HUB, file_stat
from wsrl.search.update import checked

beam: Any = require("apache_beam", "beam")

GROUPS = 16  # of architectures, each of which is cut into batches as a whole
HELD = 1000  # names in memory before a part of them is written
WAIT = 30  # seconds of work that a kill may cost
BATCH_BYTES = 4 << 30  # of the files of a batch, unless one file alone has more


@dataclass(frozen=True)
class Job:
    """What all stages know.

    Attributes:
      out: receives the parts; see `wsrl.pipelines.parts`.
      run: name of this run.
      make_encoder: called once by each worker.
      batch: models that are embedded together, at most.
    """

    out: str
    run: str
    make_encoder: Callable[[], Encoder]
    batch: int


def build(pipeline: Any, job: Job, names: Sequence[Sequence[str]]) -> None:
    """Adds all stages to a pipeline.

    Args:
      pipeline: of Beam.
      job: see there.
      names: of checkpoints; what is listed together stands together, see `wsrl.pipelines.listing.listed`.
    """
    found = pipeline | "names" >> beam.Create([list(own) for own in names]) | "list" >> beam.ParDo(List(job))
    known = pipeline | _Known(job, parts.NAMES, _places)
    done = [pipeline | _Known(job, kind, _keys) for kind in (parts.VECTORS, parts.LETTERS)]
    keyed = (
        {"found": found | "by place" >> beam.Map(lambda name: (name.place, name)), "known": known}
        | "which are known" >> beam.CoGroupByKey()
        | "identify" >> beam.ParDo(Identify(job))
    )
    missing = (
        {"names": keyed, "done": done | beam.Flatten()}
        | "which are done" >> beam.CoGroupByKey()
        | "leave those out" >> beam.FlatMap(_missing)
    )
    _ = (
        missing
        | "read headers" >> beam.ParDo(Group(job))
        | "by architecture" >> beam.GroupByKey()
        | "cut" >> beam.FlatMap(batches, job.batch)
        | "spread" >> beam.Reshuffle()
        | "embed" >> beam.ParDo(Embed(job))
    )


class _Known(beam.PTransform):
    """Pairs that the parts of a kind hold."""

    def __init__(self, job: Job, kind: str, read: Callable[[str], Iterable[tuple[str, Any]]]):
        super().__init__(f"known {kind}")
        self.job, self.kind, self.read = job, kind, read

    def expand(self, begin: Any) -> Any:
        """Lists the parts on one machine and reads them on all."""
        paths = begin | beam.Create([self.job.out]) | beam.FlatMap(parts.find_parts, self.kind)
        return paths | beam.Reshuffle() | beam.FlatMap(self.read)


def _places(path: str) -> Iterator[tuple[str, Listed]]:
    try:
        yield from ((name.place, name) for name in parts.read_names(path))
    except InputError:  # one that was not written whole says nothing; the last step tells of it
        return


def _keys(path: str) -> Iterator[tuple[str, str]]:
    try:
        yield from ((key, key) for key in parts.read_keys(path))
    except InputError:
        return


def _missing(found: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Listed]:
    """One name of each content that has not been embedded."""
    names = sorted(found[1]["names"], key=lambda name: name.source.id)
    if names and not list(found[1]["done"]):
        yield names[0]


class List(beam.DoFn):
    """Names to what they stand for."""

    def __init__(self, job: Job):
        self.job = job

    def process(self, names: list[str]) -> Iterator[Listed]:
        """Yields what is found, and writes a letter for what is not."""
        letters = []
        for found in listed(names):
            if isinstance(found, Letter):
                letters.append(found)
            else:
                yield found
        if letters:
            parts.write_letters(self.job.out, self.job.run, letters)


class Identify(beam.DoFn):
    """Names to names with the keys of their content, which are written; what an earlier run has read is not read."""

    def __init__(self, job: Job):
        self.job = job
        self.held: list[Listed] = []
        self.letters: list[Letter] = []
        self.since = 0.0

    def start_bundle(self) -> None:
        """Holds nothing."""
        self.held, self.letters, self.since = [], [], time.monotonic()

    def process(self, place: tuple[str, dict[str, Iterable[Listed]]]) -> Iterator[tuple[str, Listed]]:
        """Yields all names of a file, by the key of its content."""
        known = next(iter(place[1]["known"]), None)
        for name in {found.source.id: found for found in place[1]["found"]}.values():
            try:
                known = known or identified(name)
            except InputError as error:
                self.letters.append(Letter.of(error, name.source.id))
                continue
            source = replace(name.source, metadata={**known.source.metadata, **name.source.metadata})
            own = replace(known, source=source, version=name.version)
            self.held.append(own)
            yield own.key, own
        if len(self.held) >= HELD or time.monotonic() > self.since + WAIT:
            self.finish_bundle()

    def finish_bundle(self) -> None:
        """Writes what is held."""
        if self.held:
            parts.write_names(self.job.out, self.job.run, self.held)
        if self.letters:
            parts.write_letters(self.job.out, self.job.run, self.letters)
        self.start_bundle()


class Group(beam.DoFn):
    """Names to groups of architectures, told by headers, without a download where the host allows."""

    def __init__(self, job: Job):
        self.job = job

    def process(self, name: Listed) -> Iterator[tuple[int, tuple[str, Listed]]]:
        """Yields (group, (architecture, name)), or writes a letter where the header is broken."""
        path = name.source.path
        try:
            header = hub.header(name) if path.startswith(HUB) else local_header(path)
        except CheckpointError as error:
            parts.write_letters(self.job.out, self.job.run, [_letter(name, error)])
            return
        architecture = architecture_key(header) if header else Path(path).suffix
        yield zlib.crc32(architecture.encode()) % GROUPS, (architecture, name)


def _letter(name: Listed, error: InputError) -> Letter:
    """Says why a checkpoint was not embedded; with its key if that will be so as long as its content is the same."""
    try:
        unchanged = file_stat(name.source.path, name.source.record) == name.stat
    except OSError:
        unchanged = False
    lasting = unchanged and not isinstance(error, UnreachableError)
    return Letter.of(error, name.source.id, name.key if lasting else "")


def batches(group: tuple[int, Iterable[tuple[str, Listed]]], most: int) -> Iterator[list[Listed]]:
    """Yields the names of a group in batches: networks of one architecture stand together.

    Args:
      group: its number, and each name with its architecture.
      most: names of a batch.
    """
    batch: list[Listed] = []
    for _, name in sorted(group[1], key=lambda own: (own[0], own[1].key)):
        if batch and (len(batch) >= most or sum(own.size for own in batch) + name.size > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


class Embed(beam.DoFn):
    """Batches to parts of vectors and letters."""

    def __init__(self, job: Job):
        self.job = job
        self.encoder: Encoder | None = None
        self.counted = {
            name: beam.metrics.Metrics.counter("wsrl", name) for name in ("embedded", "bytes", "letters")
        }  # fmt: skip

    def setup(self) -> None:
        """Loads the encoder of this worker."""
        self.encoder = self.job.make_encoder()

    def process(self, batch: list[Listed]) -> Iterator[int]:
        """Embeds a batch, writes it, and yields how many of it could be used."""
        rows: list[tuple[str, Embedded]] = []
        letters: list[Letter] = []
        with TemporaryDirectory(prefix="wsrl-") as folder:
            for name, found in self._embedded(batch, Path(folder)):
                if isinstance(found, Embedded):
                    rows.append((name.key, found))
                else:
                    letters.append(_letter(name, found))
        if rows:
            parts.write_vectors(self.job.out, rows)
        if letters:
            parts.write_letters(self.job.out, self.job.run, letters)
        counts = {"embedded": len(rows), "bytes": sum(name.size for name in batch), "letters": len(letters)}
        for name, count in counts.items():
            self.counted[name].inc(count)
        yield len(rows)

    def _embedded(self, batch: Sequence[Listed], folder: Path) -> Iterator[tuple[Listed, Embedded | InputError]]:
        """What the encoder says of each, or why it cannot be used."""
        assert self.encoder is not None
        names: dict[str, Listed] = {}
        there = []
        for number, name in enumerate(batch):
            path = name.source.path
            if path.startswith(HUB):
                try:
                    path = str(hub.fetched(name, folder / str(number)))
                except CheckpointError as error:
                    yield name, error
                    continue
            source = replace(name.source, id=name.key, path=path)
            names[name.key] = name
            there.append(source)
        for source, row in embed_sources(self.encoder, there):
            name = names[source.id]
            if isinstance(row, Embedded) and name.source.path.startswith(HUB):
                row = replace(row, content_digest="")  # as of any model of the hub; what was downloaded is not kept
            yield name, checked(name.source, name.stat, row) if isinstance(row, Embedded) else row
