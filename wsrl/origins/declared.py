"""What a model's files declare of the model that it was made from."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

CARD = "README.md"
KEYS = ("base_model", "ss_sd_model_name", "base_model_name_or_path")  # of the metadata of a file
FEWEST = 3  # letters of a name that can be looked for


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


def _in_metadata(metadata: Mapping[str, object]) -> Iterator[Declared]:
    for file, key in (("adapter_config", "base_model_name_or_path"), ("config", "_name_or_path")):
        content = metadata.get(file)
        name = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(name, str):
            yield Declared(name, f"{file}.json ({key})")
    for key in KEYS:
        if isinstance(name := metadata.get(key), str):
            yield Declared(name, f"its metadata ({key})")


def card_bases(path: Path) -> list[str]:
    """Returns the names that the front matter of a model card has as `base_model`; nothing if it cannot be read.

    Maps are passed over.
    """
    from wsrl.readers.model_card import read_card  # YAML, which few models need

    try:
        card = read_card(path)
    except (OSError, ValueError):
        return []
    own = card.get("base_model") if isinstance(card, dict) else None
    return [name.strip() for name in (own if isinstance(own, list) else [own]) if isinstance(name, str)]


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
