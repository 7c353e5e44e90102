"""An encoder for pipelines: notes in a file what it embeds, wherever it runs, and may end its process half-way."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from fake_encoder import FakeEncoder


class NotingEncoder(FakeEncoder):
    def __init__(self, notes: Path, killed_at: int | None = None):
        super().__init__()
        self.notes, self.killed_at = notes, killed_at

    def _row(self, source, function):
        done = self.notes.read_text().splitlines() if self.notes.exists() else []
        if len(done) == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.notes, "a") as file:
            file.write(f"{source}\n")
        return super()._row(source, function)


@dataclass(frozen=True)
class Make:
    """Makes one; what a pipeline sends to its workers."""

    notes: Path
    killed_at: int | None = None

    def __call__(self):
        return NotingEncoder(self.notes, self.killed_at)
