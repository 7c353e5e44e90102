"""The folder of an index.

    manifest.json            which files make up the index, with their sizes and SHA-256; replaced last, atomically
    weights-000003.npy       [n, d] float32, vectors of length 1; a segment, never changed once written
    function-000003.npy      [m, d] float32, those of the models that have one; like weights, int16 in large segments
    weights-000003.graph     of a large segment; see `wsrl.search.graph`, and so `function-...`
    weights-000003.axes.npy  [d, components] float32, that belongs to the graph
    signatures-000003.npy    [tensors, 14] float32, of each model's tensors, one model after another
    neighbors-000005.npy     [m, k] int32, neighbors by function that search expands vectors with; may be missing
    expansion-000005.npy     [m, k + 2] float32, lengths and similarities that come with them
    models-000005.sqlite     ids and metadata, and where each model's rows are; of a large index several, one after
                             another, so that a commit need not write all anew; see `wsrl.search.catalog`
    lock                     held by the one process that writes

Every commit writes new files, then a manifest that names them, then deletes what it no longer names. A process that is
killed leaves the old state or the new one, and files that the next commit deletes. Readers map their files, which stay
readable when they are deleted.
"""

import hashlib
import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.search.catalog import Catalog, Model, Part
from wsrl.search.components import Vectors
from wsrl.search.database import DamagedError, damaged
from wsrl.search.file_rows import FileRows, MappedFile, map_file, show_array
from wsrl.search.fixed_point import DTYPE, single
from wsrl.search.manifest import KINDS, MANIFEST, Manifest, expansion_file, segment_file

PRECISIONS = (DTYPE, np.dtype(np.float32))  # of vectors
CHECKED = 1 << 28  # bytes of vectors that are compared with their digest before they are used; `verify` reads all
BLOCK = 16_384  # vectors that are checked at once
RETRIES = 20  # of opening an index while it is written


class Store:
    """One committed state of an index, opened for reading.

    Files are checked against their digests when they are first used: damage to one is told when it is needed. Of
    vectors that are larger than CHECKED only the size is, since searches read few of them.

    Args:
      directory: the folder.
      before: an earlier state of the same index, from which files are taken over that are in both.

    Raises:
      InputError: the folder holds no index, or one whose manifest or database is damaged.
    """

    def __init__(self, directory: Path, before: "Store | None" = None):
        self.directory = directory
        self._files: dict[str, MappedFile | None] = {}  # None for one that is missing or empty
        self._checked: set[str] = set()
        self._large: dict[str, FileRows] = {}
        self._segments: dict[str, list[tuple[int, Vectors, Int64[np.ndarray, " rows"]]]] = {}
        for _ in range(RETRIES):
            self.manifest = Manifest.read(directory)
            try:
                taken = before.unchanged(self.manifest) if before else {}
                self._files = {name: taken.get(name) or map_file(directory / name) for name in self.manifest.files}
                if None in self._files.values() and Manifest.read(directory) != self.manifest:
                    continue  # another process has committed meanwhile
                for name in self.manifest.databases:
                    self._check(name)
                self.catalog = Catalog([directory / name for name in self.manifest.databases])
                self._columns = self.catalog.columns(before._columns if before else None)
                break
            except (FileNotFoundError, DamagedError) as error:
                if Manifest.read(directory) != self.manifest:
                    continue  # SQLite opens the file by its name, which may be gone meanwhile
                if isinstance(error, DamagedError):
                    raise
                raise damaged(Path(error.filename), "missing") from error
        else:
            raise InputError(directory, "is written all the time", "wait until the other process has ended")
        self.ids, self.architectures, self._places = self._columns[:3]
        self._checked |= before._checked & taken.keys() if before else set()
        if len(self.ids) != self.manifest.models:
            raise damaged(self.catalog.path, f"{len(self.ids)} models, not {self.manifest.models}")

    @cached_property
    def weights(self) -> Float32[np.ndarray, "n dim"]:
        """Vectors of all models, in the order of `ids`."""
        return self._gather("weights", self._places[:, 1], np.arange(len(self.ids)))

    def weights_at(self, places: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m dim"]:
        """Returns the vectors of some models."""
        return self._gather("weights", self._places[places, 1], places)

    @cached_property
    def has_function(self) -> Int64[np.ndarray, " m"]:
        """Places among `ids` of the models that have a function vector."""
        return np.flatnonzero(self._places[:, 2] >= 0)

    @cached_property
    def functions(self) -> Float32[np.ndarray, "m dim"]:
        """Their function vectors."""
        return self._gather("function", self._places[self.has_function, 2], self.has_function)

    @cached_property
    def neighbors(self) -> Int32[np.ndarray, "m k"] | None:
        """Places among the models with a function vector of each one's neighbors; None if they have not been found."""
        name = self.manifest.neighbors
        if not name:
            return None
        try:
            found = self._mapped_array(name, (np.dtype(np.int32),), len(self.has_function))
            if not ((found >= 0) & (found < len(found))).all():
                raise ValueError("a place is not there")
            return found
        except (ValueError, KeyError) as error:
            raise damaged(self.directory / name, error) from error

    @cached_property
    def factors(self) -> Float32[np.ndarray, "m k_and_2"] | None:
        """Factors of expanded vectors, see `QueryExpansion.all_factors`; None if the index has none."""
        name = expansion_file(self.manifest.neighbors)
        if name not in self.manifest.derived:
            return None
        try:
            return self._mapped_array(name, PRECISIONS[1:], len(self.has_function))
        except (ValueError, KeyError) as error:
            raise damaged(self.directory / name, error) from error

    def unchanged(self, manifest: Manifest) -> dict[str, MappedFile]:
        """Returns the files, mapped, that another state has as well."""
        same = [name for name, own in manifest.files.items() if self.manifest.files.get(name) == own]
        return {name: content for name in same if (content := self._files.get(name)) is not None}

    def standing(self, gone: Collection[str]) -> Int64[np.ndarray, "kept 2"]:
        """Returns the segment of the vectors of each model but some, and whether it has a function vector."""
        left = np.fromiter((name not in gone for name in self.ids), bool, len(self.ids))
        return np.stack([self._places[left, 0], self._places[left, 2] >= 0], axis=1).astype(np.int64)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of each database; see `wsrl.search.catalog.Part`."""
        return self._columns.parts

    def first_in(self, segments: Collection[int]) -> int:
        """Returns the place of the first model whose vectors stand in some segments; the number of models if none's."""
        there = np.flatnonzero(np.isin(self._places[:, 0], list(segments)))
        return int(there[0]) if len(there) else len(self.ids)

    def signatures(self, model: Model) -> Float32[np.ndarray, "tensors numbers"]:
        """Returns the signatures of a model's tensors, as its file of signatures shows them."""
        return self._row("signatures", model.place.segment, model.place.signatures, len(model.tensors))

    def embedded(self, model: Model) -> Embedded:
        """Returns what the encoder said of a model."""
        place = model.place
        weights = np.array(single(self._row("weights", place.segment, place.weights, 1))[0])
        function = None if place.function is None else self._row("function", place.segment, place.function, 1)[0]
        signatures = self.signatures(model)
        return Embedded(
            model.id, model.content_digest, model.weights_digest, model.architecture, model.parameters, weights,
            None if function is None else np.array(single(function)), model.no_function, model.accuracy,
            model.assumed,
            dict(zip(model.tensors, np.array(signatures), strict=True)), model.warnings,
        )  # fmt: skip

    def sound(self, name: str) -> bool:
        """Whether a file is as it was written."""
        try:
            self._check(name)
        except InputError:
            return False
        return True

    def check(self) -> None:
        """Raises InputError if what the files say does not fit together, though each is as it was written."""
        if problems := self.catalog.problems():
            raise damaged(self.catalog.path, problems[0])
        _ = self.neighbors, self.factors  # whether they can be read
        for vectors, places in (part[1:] for kind in KINDS[:2] for part in self.segments(kind)):
            for start in range(0, len(vectors), BLOCK):
                length = np.linalg.norm(single(vectors[start : start + BLOCK]), axis=1)
                if not np.allclose(length[places[start : start + BLOCK] >= 0], 1, atol=1e-3):
                    raise damaged(self.directory / MANIFEST, "a vector is not of length 1")
        for model in self.catalog.models():
            self.embedded(model)

    def _check(self, name: str) -> None:
        if name not in self._checked:
            size, digest = self.manifest.files[name]
            content = self._files[name]
            if content is None:
                raise damaged(self.directory / name, "missing or empty")
            if len(content) != size or content.digest() != digest:
                raise damaged(self.directory / name, "not as it was written")
            self._checked.add(name)

    def segments(self, kind: str) -> list[tuple[int, Vectors, Int64[np.ndarray, " rows"]]]:
        """Returns number, vectors and places of each segment; see `wsrl.search.segments.Segments`.

        Args:
          kind: "weights" or "function"; the places are among the models that have such a vector.
        """
        if kind in self._segments:
            return self._segments[kind]
        column = 1 + KINDS.index(kind)
        having = np.flatnonzero(self._places[:, column] >= 0)
        numbers, rows = self._places[having, 0], self._places[having, column]
        found = []
        for number in np.unique(numbers).tolist():
            vectors, own = self._array(kind, number), numbers == number
            if not (rows[own] < len(vectors)).all():
                raise damaged(self.directory / segment_file(kind, number), "a row is not there")
            places = np.full(len(vectors), -1)
            places[rows[own]] = np.flatnonzero(own)
            found.append((number, vectors, places))
        self._segments[kind] = found
        return found

    def graph_paths(self, kind: str, segment: int) -> tuple[Path, Path] | None:
        """Returns the files of the graph of a segment, which are as they were written; None if it has none."""
        names = self.manifest.graph_files(kind, segment)
        if names is None:
            return None
        for name in names:
            self._check(name)
        return self.directory / names[0], self.directory / names[1]

    def _array(self, kind: str, segment: int) -> Vectors:
        """Maps a file of a segment."""
        name = segment_file(kind, segment)
        if name in self._large:
            return self._large[name]
        try:
            rows = self.manifest.segments[segment][KINDS.index(kind)]
            if not rows:
                return np.zeros((0, 0), np.float32)
            found = self._mapped_array(name, PRECISIONS[1:] if kind == "signatures" else PRECISIONS, rows)
            content = self._files[name]
            if content is None or len(content) <= CHECKED:
                return found
            return self._large.setdefault(name, FileRows(content))
        except (ValueError, KeyError) as error:
            raise damaged(self.directory / name, error) from error

    def _mapped_array(self, name: str, types: Sequence[np.dtype], rows: int) -> np.ndarray:
        """Shows a file as an array. Raises KeyError or ValueError if it is not of these types and rows."""
        content = self._files[name]
        if content is None or len(content) <= CHECKED or len(content) != self.manifest.files[name][0]:
            self._check(name)
        assert content is not None
        found = show_array(content)
        if len(found) != rows or found.dtype not in types:
            raise ValueError(f"{found.dtype} {found.shape} for {rows} rows")
        return found

    def _row(self, kind: str, segment: int, start: int, count: int) -> np.ndarray:
        rows = self._array(kind, segment)[start : start + count]
        if start < 0 or len(rows) != count:
            raise damaged(self.directory / segment_file(kind, segment), f"no row {start}")
        return rows

    def _gather(
        self, kind: str, rows: Int64[np.ndarray, " m"], models: Int64[np.ndarray, " m"]
    ) -> Float32[np.ndarray, "m dim"]:
        segments = self._places[models, 0]
        arrays = {number: self._array(kind, number) for number in np.unique(segments).tolist()}
        for number, array in arrays.items():
            own = rows[segments == number]
            if not ((own >= 0) & (own < len(array))).all():
                raise damaged(self.directory / segment_file(kind, number), "a row is not there")
        dims = {array.shape[1] for array in arrays.values()}
        if len(dims) > 1:
            raise damaged(self.directory, f"vectors of {sorted(dims)} dimensions")
        gathered = np.empty((len(rows), dims.pop() if dims else 0), np.float32)
        for number, array in arrays.items():
            gathered[segments == number] = single(array[rows[segments == number]])
        return gathered


def measure(path: Path) -> tuple[int, str]:
    """Returns bytes and SHA-256 of a file."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
