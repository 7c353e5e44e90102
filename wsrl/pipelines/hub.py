"""Models of the hub: which there are, what tells their content apart, their headers; all before a download.

https://huggingface.co/docs/huggingface_hub: `list_models`, `model_info(files_metadata=True)`, which has the SHA-256 of
every large file and the git hash of every small one, and `get_hf_file_metadata`, which says where a file lies.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from wsrl.checkpoint import CheckpointError, Tensor
from wsrl.errors import InputError
from wsrl.pipelines.headers import remote_header
from wsrl.pipelines.listed import Listed
from wsrl.readers.huggingface import URI, download, refusals, wanted
from wsrl.search.file_identity import HUB
from wsrl.search.sources import CARD, Source

CARD_FILE = "README.md"  # is downloaded, but tells nothing of the weights
OPTIONS = ("filter", "search", "sort")
MEND = "write hf://owner/name, or hf://owner/* with ?filter=TAG, &search=TEXT, &sort=KEY or &limit=N"


def is_filter(name: str) -> bool:
    """Whether an address stands for many models."""
    return name.startswith(HUB) and ("*" in name or "?" in name)


@dataclass(frozen=True)
class Filter:
    """What a filter of models asks for. Get one by `parse`.

    Attributes:
      pattern: of names, as `owner/resnet*`.
      options: of the hub's list.
      limit: models that fit the pattern, at most; None for all.
    """

    pattern: str
    options: dict[str, Any]
    limit: int | None

    @classmethod
    def parse(cls, name: str) -> "Filter":
        """Reads `hf://owner/resnet*` or `hf://*/*?filter=image-classification&limit=100`.

        `filter` is a tag (task, library, license, ...) and may be repeated; `search` is a part of the name; `sort` is
        what the hub sorts by, such as `downloads`; the first `limit` that fit the pattern are taken.

        Raises:
          InputError: it has another form.
        """
        pattern, _, query = name.removeprefix(HUB).partition("?")
        owner, slash, rest = pattern.partition("/")
        given = parse_qs(query)
        limit = given.pop("limit", ["0"])[0]
        if given.keys() - set(OPTIONS) or not slash or "/" in rest or not limit.isdigit():
            raise InputError(name, "is no filter of models", MEND)
        options: dict[str, Any] = {key: own if key == "filter" else own[0] for key, own in given.items()}
        if "*" not in owner:
            options["author"] = owner
        return cls(pattern, options, int(limit) or None)


def models(name: str) -> Iterator[Listed]:
    """Yields the models that an address stands for: one, or those of a `Filter`.

    Raises:
      InputError: it is no such address, or there is no way to the hub.
    """
    if not is_filter(name):
        yield Listed(Source(name, name), "")
        return
    asked = Filter.parse(name)
    with refusals(name) as hub:
        listed = hub.HfApi().list_models(expand=["sha"], **asked.options)
        for model in islice((own for own in listed if _fits(own.id, asked.pattern)), asked.limit):
            yield Listed(Source(HUB + model.id, HUB + model.id), model.sha or "")


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or pattern == "*/*"  # some old models have no owner


def identified(name: Listed) -> Listed:
    """Returns a model with the key of its content, its commit and what its card says, from the hub's metadata alone.

    Raises:
      CheckpointError: there is no such model, it holds no weights, or see `wsrl.readers.huggingface.refusals`.
    """
    model, revision = _parsed(name)
    with refusals(name.source.path, revision) as hub:
        info = hub.HfApi().model_info(model, revision=revision, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or ()}
    patterns = wanted(name.source.path, list(files))
    chosen = {at: file for at, file in files.items() if any(fnmatchcase(at, pattern) for pattern in patterns)}
    lines = [f"{at}\0{_blob(file)}\n" for at, file in sorted(chosen.items()) if at != CARD_FILE]
    card = info.card_data.to_dict() if info.card_data else {}
    about = {key: card[key] for key in CARD if key in card} | {"revision": info.sha}
    content = hashlib.sha256("".join(lines).encode()).hexdigest()
    source = replace(name.source, metadata={**name.source.metadata, **about})
    size = sum(file.size or 0 for file in chosen.values())
    return name.identified(content, size, source=source, files=tuple(sorted(chosen)))


def _parsed(name: Listed) -> tuple[str, str | None]:
    """The model and the commit that its key was made of, or else what its address says."""
    match = URI.fullmatch(name.source.path)
    if not match:
        raise CheckpointError(name.source.path, "is no address of a model", MEND)
    return match[1], str(name.source.metadata.get("revision") or name.version or match[2] or "") or None


def _blob(file: Any) -> str:
    return file.lfs.sha256 if file.lfs else file.blob_id


def fetched(name: Listed, folder: Path) -> Path:
    """Downloads the commit of a model that its key was made of, into a folder.

    Raises:
      CheckpointError: see `wsrl.readers.huggingface.download`.
    """
    return download(name.source.path, *_parsed(name), folder)


def header(name: Listed) -> dict[str, Tensor] | None:
    """Returns the tensors of a model, which must not be read, from the headers of its safetensors files.

    Returns:
      None where it has no such files, or the host sends no parts of files.

    Raises:
      CheckpointError: a header is broken, or there is no way to the hub.
    """
    model, revision = _parsed(name)
    tensors: dict[str, Tensor] = {}
    with refusals(name.source.path, revision) as hub:
        for file in (file for file in name.files if file.endswith(".safetensors")):
            there = hub.get_hf_file_metadata(hub.hf_hub_url(model, file, revision=revision))
            own = remote_header(there.location, there.size or 0, file)
            if own is None:
                return None
            tensors |= own
    return tensors or None
