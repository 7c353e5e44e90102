"""What a model's files declare of the model that it was made from."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

CARD = "README.md"
KEYS = ("base_model", "ss_sd_model_name", "base_model_name_or_path")  # of the metadata of a file
GGUF = ("repo_url", "name")  # of general.base_model.0 in a GGUF file; what names the model best comes first
FEWEST = 3  # letters of a name that can be looked for
LOADED = "config.json (_name_or_path)"  # where a network was loaded from: its base, or the folder of its training
HUB = "https://huggingface.co/"


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
    if Path(path).is_dir() or isinstance(metadata.get("config"), dict):
        found += [Declared(name, f"its card ({CARD})") for name in card_bases(folder / CARD)]
    return list(dict.fromkeys(own for own in found if len(own.name) >= FEWEST))


def named_bases(metadata: Mapping[str, object], path: str) -> tuple[str, ...]:
    """Returns the names alone, without that of the folder which a network happened to be loaded from."""
    return tuple(dict.fromkeys(own.name for own in declared_bases(metadata, path) if own.where != LOADED))


def _in_metadata(metadata: Mapping[str, object]) -> Iterator[Declared]:
    for file, key in (("adapter_config", "base_model_name_or_path"), ("config", "_name_or_path")):
        content = metadata.get(file)
        name = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(name, str):
            yield Declared(name, f"{file}.json ({key})")
    for key in KEYS:
        if isinstance(name := metadata.get(key), str):
            yield Declared(name, f"its metadata ({key})")
    told = metadata.get("gguf")
    for key in (f"general.base_model.0.{part}" for part in GGUF):
        if isinstance(told, Mapping) and isinstance(name := told.get(key), str):
            yield Declared(name.removeprefix(HUB), f"its metadata ({key})")
            return


def card_bases(path: Path) -> list[str]:
    """Returns what the front matter of a model card names as `base_model`; nothing if no card can be read."""
    if not path.is_file():
        return []
    from wsrl.readers.model_card import read_card  # YAML, which few folders need

    try:
        card = read_card(path)
    except (OSError, ValueError):
        return []
    return base_names(card) if isinstance(card, dict) else []


def base_names(card: Mapping[str, object]) -> list[str]:
    """Returns the names in a card's `base_model`, whatever they are nested in."""
    return [name for name in _texts(card.get("base_model")) if len(name) >= FEWEST]


def _texts(value: object) -> Iterator[str]:
    """The texts in a value of a card: some write a list of maps where the hub wants names."""
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list | dict):
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
