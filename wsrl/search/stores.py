"""The layouts in which applications keep models, and the names that people know these by.

- Hugging Face's cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
- Ollama: manifests of the form of OCI images that name blobs by their digest
- LM Studio: models/OWNER/NAME/FILE
- ComfyUI: models/KIND/FILE
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wsrl.errors import InputError

HUGGING_FACE, OLLAMA, LM_STUDIO, COMFYUI = "Hugging Face cache", "Ollama", "LM Studio", "ComfyUI"
HUB_FOLDER = re.compile(r"(models|datasets|spaces)--(.+)")
NO_MODELS = re.compile(r"(datasets|spaces)--.+|blobs")  # in a cache of Hugging Face; blobs are linked from snapshots
REVISION = 7  # characters of a commit that are shown
KINDS = ("checkpoints", "loras", "vae", "clip", "unet", "diffusion_models", "text_encoders", "controlnet", "embeddings")
REGISTRY, LIBRARY = "registry.ollama.ai", "library"  # which names leave out
LAYERS = {"model": "", "adapter": "/adapter", "projector": "/projector"}  # of a manifest that hold weights -> in names
LAYER = re.compile(rf"application/vnd\.ollama\.image\.({'|'.join(LAYERS)})")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
LARGEST_MANIFEST = 1 << 20  # bytes


class Shelf(NamedTuple):
    """A folder in which an application keeps models.

    Attributes:
      root: what lies below is named relative to it.
      name: comes before that; of the one model in it if `root` is a checkpoint.
      about: metadata of the models.
    """

    root: Path
    name: str
    about: Mapping[str, Any]

    def id_of(self, path: Path) -> str:
        """The name of a file or folder on the shelf."""
        below = path.relative_to(self.root).as_posix()
        return "/".join(part for part in (self.name, below) if part not in ("", "."))

    def about_of(self, path: Path) -> dict[str, Any]:
        """The metadata of a file or folder on the shelf."""
        kind = {"kind": path.relative_to(self.root).parts[0]} if self.about["store"] == COMFYUI else {}
        return {**self.about, **kind}


class Blob(NamedTuple):
    """A file of Ollama, with the names of the models that it belongs to."""

    names: list[str]
    path: Path


def shelves(folder: Path, entries: Sequence[Path]) -> list[Shelf] | None:
    """Returns the shelves in a folder if an application keeps models there; None if it is a folder as any other."""
    hub = HUB_FOLDER.fullmatch(folder.name)
    if hub and hub[1] == "models" and (folder / "snapshots").is_dir():
        return _snapshots(folder, hub[2].replace("--", "/"))
    if folder.name == "models" and folder.parent.name in (".lmstudio", "lm-studio"):
        return [Shelf(folder, "", {"store": LM_STUDIO})]
    kinds = {path.name for path in entries} & set(KINDS)
    if folder.name == "models" and "checkpoints" in kinds and len(kinds) > 1:
        return [Shelf(folder, "", {"store": COMFYUI})]
    return None


def _snapshots(folder: Path, name: str) -> list[Shelf]:
    """A shelf for each revision; the one that `main` points to, or the only one, has the bare name."""
    revisions = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    try:
        main = (folder / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    bare = main if any(path.name == main for path in revisions) else (revisions[0].name if len(revisions) == 1 else "")
    return [
        Shelf(
            path,
            name if path.name == bare else f"{name}@{path.name[:REVISION]}",
            {"store": HUGGING_FACE, "revision": path.name},
        )
        for path in revisions
    ]


def without_models(entries: Sequence[Path]) -> list[Path]:
    """Returns what a cache of Hugging Face holds beside models; nothing for any other folder."""
    if not any((hub := HUB_FOLDER.fullmatch(path.name)) and hub[1] == "models" for path in entries):
        return []
    return [path for path in entries if NO_MODELS.fullmatch(path.name)]


def is_ollama(folder: Path) -> bool:
    """Whether a folder is laid out as Ollama's."""
    return (folder / "manifests").is_dir() and (folder / "blobs").is_dir()


def ollama_blobs(folder: Path) -> Iterator[Blob | InputError]:
    """Yields the files of weights that Ollama's manifests name, each once, and what is wrong with manifests."""
    found: dict[Path, list[str]] = {}
    for path in sorted((folder / "manifests").rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        try:
            if path.stat().st_size > LARGEST_MANIFEST:
                raise ValueError("it is too large")
            layers = json.loads(path.read_bytes())["layers"]
            named = [(LAYER.fullmatch(layer["mediaType"]), DIGEST.fullmatch(layer["digest"])) for layer in layers]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            yield InputError(path, f"is no manifest of Ollama ({error})", "pull the model again")
            continue
        name = _ollama_name(path.relative_to(folder / "manifests").parts)
        for layer, digest in named:
            if layer and digest:
                found.setdefault(folder / "blobs" / f"sha256-{digest[1]}", []).append(name + LAYERS[layer[1]])
    for blob, names in found.items():
        yield Blob(names, blob)


def _ollama_name(parts: Sequence[str]) -> str:
    *folders, model, tag = parts if len(parts) > 1 else (*parts, "latest")
    if folders[:1] == [REGISTRY]:
        folders = [part for part in folders[1:] if part != LIBRARY]
    return f"{'/'.join([*folders, model])}:{tag}"
