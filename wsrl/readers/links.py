"""Files beside a model that it names: they must lie in its folder, and symbolic links must not lead out of it."""

from pathlib import Path, PurePosixPath

from wsrl.checkpoint import CheckpointError

TRUST = "get it from a source that you trust"


def is_beside(path: Path, file: Path) -> bool:
    """Whether a path, all links followed, lies in the folder of `file`.

    In the hub's cache every file of a model is a link into one folder; then what is in that folder is beside it too.

    Raises:
      OSError: one of them does not exist.
    """
    homes = (file.parent.resolve(strict=True), file.resolve(strict=True).parent)
    return any(path.resolve(strict=True).is_relative_to(home) for home in homes)


def file_beside(name: object, model: Path) -> Path:
    """Returns the path of a file that a model names.

    Args:
      name: the file's name, or its path from the model's folder down.
      model: the file that names it.

    Raises:
      CheckpointError: the name is no name, or leads out of the folder; there is no such file.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) and name.isprintable() and "\\" not in name else ()
    if not parts or ".." in parts or parts[0] == "/":
        raise CheckpointError(model, f"names the file {name!a:.80}, which is not in its folder", TRUST)
    file = model.parent.joinpath(*parts)
    if not file.is_file():
        raise CheckpointError(model, f"lacks its file {name!r}", "download all of its files")
    if not is_beside(file, model):
        raise CheckpointError(model, f"its file {name!r} is a link out of its folder", TRUST)
    return file
