"""Reads what stable-baselines3 saves: a zip archive with `policy.pth`, and `data`, a JSON object of settings.

The layout: stable_baselines3/common/save_util.py. Settings that are pickles in base64 stay unread.
"""

from pathlib import Path

from wsrl.checkpoint import Checkpoint
from wsrl.readers.archives import Archive, member_names, open_archive
from wsrl.readers.json_files import parse_json_object
from wsrl.readers.pytorch import open_torch_archive

POLICY = "policy.pth"
SETTINGS = "data"


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is a zip archive with `policy.pth` and `data`."""
    return {POLICY, SETTINGS} <= set(member_names(head, path))


def open_file(path: Path) -> Checkpoint:
    """Opens the policy of a saved agent.

    Raises:
      CheckpointError: the archive, the policy in it or its settings are broken.
    """
    archive = open_archive(path)
    settings = parse_json_object(archive.read(SETTINGS).tobytes(), path, f"its member {SETTINGS!r}")
    policy = open_torch_archive(Archive(archive.read(POLICY), path))
    plain = {key: value for key, value in settings.items() if isinstance(value, str | int | float | bool)}
    left_out = tuple(name for name in archive.members if name.endswith(".pth") and name != POLICY)
    return Checkpoint(str(path), policy.tensors, {**plain, **policy.metadata, "left_out": left_out})
