"""The folder of a run: what lies where, and the configuration that it belongs to."""

import json
from pathlib import Path

import ml_collections

from wsrl.annotations import Config
from wsrl.errors import InputError
from wsrl.files import write_atomically

CONFIG = "config.json"


def lock_workdir(config: Config, workdir: Path) -> None:
    """Writes the configuration into the folder.

    Raises:
      InputError: the folder holds a run of another configuration.
    """
    path = workdir / CONFIG
    current = json.loads(json.dumps({k: v for k, v in config.to_dict().items() if k != "evaluation"}))
    if path.exists():
        try:
            held = json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(path, f"not readable ({error})", "name another --workdir") from error
        if held != current:
            raise InputError(path, "the folder holds a run of another configuration", "name another --workdir")
    else:
        write_atomically(path, json.dumps(current, indent=1).encode())


def read_config(workdir: Path) -> Config:
    """Reads the configuration of a run.

    Raises:
      InputError: the folder holds none.
    """
    try:
        return ml_collections.ConfigDict(json.loads((workdir / CONFIG).read_bytes()))
    except (OSError, ValueError) as error:
        fix = "run experiments.main with this --workdir first"
        raise InputError(workdir, f"holds no run ({error})", fix) from error


def zoo_directory(config: Config, workdir: Path) -> Path:
    """Where the zoo of a run lies: in its folder, unless it was made elsewhere."""
    return Path(config.zoo.dir) if config.zoo.dir else workdir / "zoo"


def encoder_directories(workdir: Path, count: int) -> list[Path]:
    """Folders of the first encoders of a run, one a seed."""
    return [workdir / f"encoder_{seed}" for seed in range(count)]
