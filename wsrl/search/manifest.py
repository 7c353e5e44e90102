"""The manifest of an index: which files make it up. It is written last, so it decides what the index holds."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from wsrl.errors import InputError
from wsrl.search.database import damaged

FORMAT, VERSION = "wsrl-index", 3
# The first had no large segments: vectors in sixteen bits, and graphs. The second had one database.
READABLE = (1, 2, VERSION)
MANIFEST, LOCK = "manifest.json", "lock"
KINDS = ("weights", "function", "signatures")  # of the files of a segment
OWN = re.compile(
    rf"({'|'.join(KINDS)}|neighbors|expansion)-\d{{6,}}\.npy|(weights|function)-\d{{6,}}\.(graph|axes\.npy)"
    r"|models-\d{6,}\.sqlite|manifest\.json\.partial|lock"
)


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
      encoder: hash of the encoder that made the vectors.
      generation: number of the commit.
      models, functions: how many models there are, and how many have a function vector.
      databases: files of the models, in their order; see `wsrl.search.catalog`.
      segments: number -> rows of the files in the order of KINDS; no file where there is no row.
      files: name -> (bytes, SHA-256).
      neighbors: file of the neighbors by function of each model; empty where they are to be found when needed. Beside
        it lies that of `expansion_file`, unless an earlier version wrote the index.
      sources: (as it was named, path relative to the index) of each source that the index was made of; empty in one
        that an earlier version wrote.
    """

    encoder: str
    generation: int
    models: int
    functions: int
    databases: tuple[str, ...]
    segments: dict[int, tuple[int, int, int]]
    files: dict[str, tuple[int, str]]
    neighbors: str = ""
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def derived(self) -> list[str]:
        """The files that can be made again from the vectors: neighbors, and factors where there are some."""
        return [name for name in (self.neighbors, expansion_file(self.neighbors)) if name in self.files]

    def graph_files(self, kind: str, segment: int) -> tuple[str, str] | None:
        """Returns the names of the files of the graph of a segment's vectors; None if it has no graph."""
        graph, axes = graph_files(kind, segment)
        return (graph, axes) if graph in self.files and axes in self.files else None

    def to_bytes(self) -> bytes:
        """Returns the content of the file, which ends with a digest of the rest."""
        content = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}))  # keys become text
        return json.dumps({**content, "digest": _digest(content)}, indent=1).encode()

    def check_encoder(self, directory: Path, encoder: str) -> None:
        """Raises InputError if the index was filled by an encoder of another hash."""
        if encoder != self.encoder:
            reason = f"was filled by the encoder {self.encoder[:12]}, not by {encoder[:12]}"
            raise InputError(directory, reason, "name that encoder by --encoder, or index again into a new folder")

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Reads the manifest of a folder.

        Raises:
          InputError: there is none, it is damaged, or it is of another version.
        """
        path = directory / MANIFEST
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            if any(directory.glob("models-*.sqlite")):
                raise damaged(path, "missing") from error
            raise _no_index(directory) from error
        except (ValueError, RecursionError) as error:
            raise damaged(path, "no JSON") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(path, "belongs to something else", "name the folder of an index")
        if content.get("version") not in READABLE:
            reason = f"is of version {content.get('version')!r}, not {VERSION}"
            raise InputError(path, reason, "use the version of wsrl that wrote it, or index again into a new folder")
        digest = content.pop("digest", None)
        if digest != _digest(content):
            raise damaged(path, "its digest is another")
        try:
            files = {name: (int(size), str(digest)) for name, (size, digest) in content["files"].items()}
            databases = tuple(content["databases"] if content["version"] > 2 else [content["database"]])
            if not databases or (bad := [name for name in (*files, *databases) if not OWN.fullmatch(name)]):
                raise ValueError(f"names {bad[0]!r}" if databases else "names no database")
            segments = {int(number): tuple(map(int, rows)) for number, rows in content["segments"].items()}
            counts = (int(content[key]) for key in ("generation", "models", "functions"))
            sources = tuple((str(shown), str(path)) for shown, path in content.get("sources", ()))
            return cls(
                str(content["encoder"]), *counts, databases, segments, files, content["neighbors"], sources  # pyright: ignore
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(path, error) from error


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def expansion_file(neighbors: str) -> str:
    """The name of the file of the factors that belong to neighbors; see `QueryExpansion.all_factors`."""
    return neighbors.replace("neighbors", "expansion")


def is_graph(name: str) -> bool:
    """Whether a file is one of those of `graph_files`."""
    return name.endswith((".graph", ".axes.npy"))


def segment_of(name: str) -> int | None:
    """The number of the segment that a file belongs to; None for one of the whole index."""
    kind, _, number = name.partition("-")
    return int(number.partition(".")[0]) if kind in KINDS else None


def last_number(directory: Path) -> int:
    """The highest number of a commit among the names of the files; 0 if there is none."""
    named = (path.stem.rpartition("-")[2] for path in directory.iterdir() if OWN.fullmatch(path.name))
    return max((int(number) for number in named if number.isdigit()), default=0)


def graph_files(kind: str, segment: int) -> tuple[str, str]:
    """The names of the files of the graph of a segment's vectors, as `wsrl.search.graph.Graph.save` takes them."""
    return f"{kind}-{segment:06d}.graph", f"{kind}-{segment:06d}.axes.npy"


def segment_file(kind: str, segment: int) -> str:
    """The name of a file of a segment."""
    return f"{kind}-{segment:06d}.npy"


def _no_index(directory: Path) -> InputError:
    from wsrl.search.address import is_address  # which asks for the manifest of a folder

    address = re.sub("^([a-z]+):/", r"\1://", str(directory))  # a path has lost a slash
    if is_address(address):
        return InputError(address, "is a vector store, and this needs files of an index", "name the folder of an index")
    return InputError(directory, "is no index", "make one with `wsrl index`, or name another folder")
