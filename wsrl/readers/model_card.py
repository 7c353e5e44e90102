"""Reads the front matter of model cards: https://huggingface.co/docs/hub/model-cards."""

import re
from pathlib import Path
from typing import Any

import yaml

LIMIT = 1 << 18  # bytes of the card that may hold its front matter


def read_card(path: Path) -> object:
    """Returns the front matter of a model card, YAML between two lines of dashes at its beginning; texts stay texts.

    Raises:
      OSError: there is no such file.
      ValueError: it cannot be read.
    """
    with open(path, encoding="utf-8", newline=None) as file:
        text = file.read(LIMIT)
    match = re.match(r"---\n(.*?)^---$", text, re.DOTALL | re.MULTILINE)
    try:
        return yaml.load(match[1], _PlainLoader) if match else {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


class _PlainLoader(yaml.BaseLoader):
    """Builds texts, lists and maps only. Refuses references, which could make a short card endless."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it refers to parts of itself")
        return super().compose_node(parent, index)
