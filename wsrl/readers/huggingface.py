"""Reads models as the Hugging Face hub lays them out: a folder of weights, configuration and model card, or `hf://`.

The layout: https://huggingface.co/docs/hub/models, and its page on model cards for their front matter. Of several files
with the same weights one is chosen; the reader of its format does the rest.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

from wsrl.checkpoint import Checkpoint, CheckpointError, one_line
from wsrl.readers.json_files import read_json_object

# The first pattern that fits decides, and the first name among those that fit. Split files come by their index.
PREFERENCE = (
    *("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    *("*.safetensors.index.json", "*.safetensors"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "*.bin.index.json"),
    *("flax_model.msgpack", "*.msgpack"),
    *("*.keras", "*.h5", "*.gguf", "*.onnx", "*.tflite", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.npz"),
)
NO_WEIGHTS = ("training_args*", "optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state*", "tokenizer*")
BESIDE = ("config.json", "adapter_config.json", "README.md")
ORBAX = ("_METADATA", "*manifest.ocdbt", "*/.zarray")
PART = re.compile(r"-(\d{5})-of-\d{5}\.(\w+)$")  # of a split file, which comes by its index
FIRST = ("00001", "gguf")  # GGUF has no index: the first part stands for all
URI = re.compile(r"hf://([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@([\w][\w./-]*))?")


def matches(head: bytes, path: Path) -> bool:
    """Whether a folder holds a file of weights under a name that models have on the hub."""
    return not head and path.is_dir() and bool(weight_files(path))


def open_file(path: Path) -> Checkpoint:
    """Opens the preferred file of weights in a folder.

    The metadata has `weights`, the file that was chosen, `weights_format`, and `other_weights`, names of those that
    were not; `config` and `adapter_config` from the JSON files of these names; `card`, the front matter of the model
    card, all values as text; and `warnings`, a tuple of sentences, if the card or other files of weights are not read.

    Raises:
      CheckpointError: see the reader of the file; or a configuration is not valid JSON.
    """
    from wsrl.readers import open_checkpoint  # which calls this: the import would go in a circle

    chosen, *others = weight_files(path)
    checkpoint = open_checkpoint(path / chosen)
    told: dict[str, object] = {"weights": chosen, "other_weights": tuple(others)}
    told["weights_format"] = checkpoint.metadata["format"]
    warnings = list(checkpoint.warnings)
    if others and not (path / "config.json").is_file():  # nothing says that they are one model in several formats
        warnings.append(f"the folder holds other files of weights, which are not read: {', '.join(others)}")
    for name in ("config", "adapter_config"):
        if (path / f"{name}.json").is_file():
            told[name] = read_json_object(path / f"{name}.json")
    if (path / "README.md").is_file():
        from wsrl.readers.model_card import read_card  # YAML, which few files need

        try:
            told["card"] = read_card(path / "README.md")
        except ValueError as error:
            warnings.append(f"the front matter of README.md cannot be read: {one_line(error)}")
    if warnings:
        told["warnings"] = tuple(warnings)
    return Checkpoint(str(path), checkpoint.tensors, {**checkpoint.metadata, **told})


def open_uri(uri: str) -> Checkpoint:
    """Opens a model of the hub; downloads the preferred file of weights, configuration and card if they are not cached.

    Args:
      uri: `hf://owner/name`, maybe followed by `@` and a branch, tag or commit.

    Raises:
      CheckpointError: huggingface_hub is missing, there is no such model or no way to it, or see open_file.
    """
    match = URI.fullmatch(uri)
    if not match:
        raise CheckpointError(uri, "is no address of a model", "write hf://owner/name or hf://owner/name@revision")
    folder = _download(uri, match[1], match[2])
    from wsrl.readers import open_checkpoint

    checkpoint = open_checkpoint(folder)
    return Checkpoint(uri, checkpoint.tensors, {**checkpoint.metadata, "revision": folder.name})


def weight_files(folder: Path) -> list[str]:
    """Names of files of weights in a folder, the preferred one first; parts of split files are not among them."""
    return _choices([entry.name for entry in folder.iterdir() if entry.is_file()])


def _choices(names: Sequence[str]) -> list[str]:
    """Names of weights, the preferred one first; parts of split files are not among them."""
    weights = [n for n in sorted(names) if not any(fnmatch(n, p) for p in NO_WEIGHTS)]
    fitting = [name for pattern in PREFERENCE for name in weights if fnmatch(name, pattern)]
    return [name for name in dict.fromkeys(fitting) if not (part := PART.search(name)) or part.groups() == FIRST]


def _download(uri: str, model: str, revision: str | None) -> Path:
    try:
        return download(uri, model, revision)
    except UnreachableError:
        if cached := _cached(model, revision):
            return cached
        raise


def download(uri: str, model: str, revision: str | None, folder: Path | None = None) -> Path:
    """Downloads the preferred file of weights of a model, its configuration and its card; returns their folder.

    Args:
      uri: of the model, for messages.
      model: `owner/name`.
      revision: branch, tag or commit; None for the default branch.
      folder: receives the files; None for the cache of the hub.

    Raises:
      CheckpointError: there is no such model, it has no weights, or see `refusals`.
    """
    with refusals(uri, revision) as hub:
        names = [file.rfilename for file in hub.model_info(model, revision=revision).siblings or ()]
        return Path(
            hub.snapshot_download(model, revision=revision, allow_patterns=wanted(uri, names), local_dir=folder)
        )


class UnreachableError(CheckpointError):
    """There is no way to the hub, or to the disk that receives what it sends: it may be there another time."""


@contextmanager
def refusals(uri: str, revision: str | None = None) -> Iterator[ModuleType]:
    """Gives the package `huggingface_hub`, and tells in one line what the hub refuses.

    Raises:
      CheckpointError: the package is missing, there is no such model, or it is gated.
      UnreachableError: there is no way to the hub.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(uri, "needs the package huggingface_hub", "pip install 'wsrl[hub]'") from error
    try:
        yield huggingface_hub
    except CheckpointError:
        raise
    except errors.GatedRepoError as error:
        fix = "ask for access on the model's page, then log in with `hf auth login`"
        raise CheckpointError(uri, "is gated", fix) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(uri, f"has no revision {revision!r}", "check the part after the @") from error
    except errors.RepositoryNotFoundError as error:
        fix = "check the name; if it is private, log in with `hf auth login`"
        raise CheckpointError(uri, "is not on the hub, or private", fix) from error
    except Exception as error:  # of the disk, or of the HTTP library, which differs between versions
        reason = f"is not cached and cannot be downloaded ({one_line(error)})"
        raise UnreachableError(uri, reason, "check the network, HF_HUB_OFFLINE and HF_ENDPOINT") from error


def _cached(model: str, revision: str | None) -> Path | None:
    """Returns the folder of an earlier download, if there is one."""
    import huggingface_hub

    try:
        options = {"local_files_only": True, "allow_patterns": list(BESIDE)}  # which weights were wanted is not known
        return Path(huggingface_hub.snapshot_download(model, revision=revision, **options))
    except (OSError, ValueError):
        return None


def wanted(uri: str, names: Sequence[str]) -> list[str]:
    """Returns patterns of the files to download of those that a model has.

    Raises:
      CheckpointError: none holds weights.
    """
    if chosen := next(iter(_choices([name for name in names if "/" not in name])), None):
        stem, _, rest = chosen.removesuffix(".index.json").rpartition(".")
        parts = f"{PART.sub('', chosen) if PART.search(chosen) else stem}-*-of-*.{rest}"
        return [*BESIDE, chosen, f"{chosen}[._]data*", parts]  # ONNX has data beside it
    if any(fnmatch(name, pattern) for name in names for pattern in ORBAX):
        return ["*"]
    raise CheckpointError(uri, "holds no file of weights that is known", f"known are {', '.join(PREFERENCE[-10:])}")
