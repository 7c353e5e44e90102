"""What a model's files declare of the model that it was made from."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

CARD = "README.md"
BASE = "base_model"  # key of metadata: what a model is said to be made from, a list of names
KEYS = (BASE, "ss_sd_model_name", "base_model_name_or_path")  # of the metadata of a file
GGUF = ("repo_url", "name")  # of general.base_model.N in a GGUF file; what names the model best comes first
FEWEST = 3  # letters of a name that can be looked for
LOADED = "config.json (_name_or_path)"  # where a network was loaded from: its base, or the folder of its training
HUB = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://")
PAGE = re.compile(r"/(?:tree|blob|resolve)/.*")  # of a repository at the hub, behind its name
NULL = ("null", "Null", "NULL", "~")  # YAML's words for nothing, which a card's reader leaves texts


class Declared(NamedTuple):
    """A base model as it is named, and where."""

    name: str
    where: str


def declared_bases(metadata: Mapping[str, object], path: str) -> list[Declared]:
    """Returns the base models that a checkpoint's configurations, metadata and card name.

    Args:
      metadata: of the checkpoint.
      path: of its file or folder. A card counts where the folder is that of one model.
    """
    found = list(_in_metadata(metadata))
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if Path(path).is_dir() or any(isinstance(metadata.get(key), Mapping) for key in ("config", "adapter_config")):
        found += [Declared(name, f"its card ({CARD})") for name in card_bases(folder / CARD)]
    return list(dict.fromkeys(found))


def named_bases(metadata: Mapping[str, object], path: str) -> tuple[str, ...]:
    """Returns the names alone, without that of the folder which a network happened to be loaded from."""
    return tuple(dict.fromkeys(own.name for own in declared_bases(metadata, path) if own.where != LOADED))


def _in_metadata(metadata: Mapping[str, object]) -> Iterator[Declared]:
    for file, key in (("adapter_config", "base_model_name_or_path"), ("config", "_name_or_path")):
        content = metadata.get(file)
        if isinstance(content, Mapping):
            yield from _declared(content.get(key), f"{file}.json ({key})")
    for key in KEYS:
        yield from _declared(metadata.get(key), f"its metadata ({key})")
    told = metadata.get("gguf")
    if isinstance(told, Mapping):
        numbers = sorted({match[0] for key in told if (match := re.match(r"general\.base_model\.\d+\.", str(key)))})
        for number in numbers:
            own = (list(_declared(told.get(number + part), f"its metadata ({number}{part})")) for part in GGUF)
            yield from next(filter(None, own), ())


def _declared(value: object, where: str) -> list[Declared]:
    return [Declared(name, where) for name in base_names(value)]


def card_bases(path: Path) -> list[str]:
    """Returns what the front matter of a model card names as `base_model`; nothing if no card can be read."""
    if not path.is_file():
        return []
    from wsrl.readers.model_card import read_card  # YAML, which few folders need

    try:
        card = read_card(path)
    except (OSError, ValueError):
        return []
    return base_names(card.get(BASE)) if isinstance(card, Mapping) else []


def base_names(value: object) -> list[str]:
    """Returns the names of base models in a value, each once, in the one form that `base_model` has everywhere.

    Args:
      value: of `base_model` in a card, a header or a manifest: a name, or names in lists and maps. Of the hub's address
        of a model its `owner/name` stays; what is no text, or too short to be looked for, is no name.
    """
    return list(dict.fromkeys(name for text in _texts(value) if len(name := _short(text)) >= FEWEST))


def _short(name: str) -> str:
    own = name.strip()
    match = HUB.match(own)
    return PAGE.sub("", own[match.end() :]).rstrip("/") if match else own


def _texts(value: object) -> Iterator[str]:
    """The texts in a value of a card: some write a list of maps where the hub wants names."""
    if isinstance(value, str) and value not in NULL:
        yield value
    elif isinstance(value, list | tuple | dict):
        for own in value.values() if isinstance(value, dict) else value:
            yield from _texts(own)


def names_model(name: str, path: str, own: str = "") -> bool:
    """Whether a declared name means the model at a path: the end of the path, or an owner and name in a hub's cache.

    Args:
      name: `owner/name`, or the path of a folder or file.
      path: of the model that may be meant.
      own: path of the model that declares it, which cannot mean itself.
    """
    if not path or Path(path) == Path(own):
        return False
    parts = tuple(part for part in Path(path).parts if part not in ("/", "."))
    wanted = tuple(part for part in Path(name).parts if part not in ("/", "."))[-2:]
    if "--".join(("models", *wanted)) in parts:
        return True
    stemmed = (*parts[:-1], Path(parts[-1]).stem)
    return wanted in (parts[-len(wanted) :], stemmed[-len(wanted) :], parts[-1 - len(wanted) : -1])
