"""Headers of checkpoints that lie elsewhere or are large: which tensors there are, without their numbers.

Hosts that know ranges (RFC 9110, section 14) send the first bytes of a file alone. The header of a safetensors file
that comes so is checked by the reader of that format, on a file of the whole length of which only the header is there.
"""

import hashlib
import mmap
import tempfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np

from wsrl.checkpoint import Tensor
from wsrl.readers import open_checkpoint
from wsrl.readers.json_files import LIMIT
from wsrl.readers.safetensors import open_data

FIRST = 100_000  # bytes asked for first, which hold the header of most models
WAIT = 30  # seconds for an answer


def architecture_key(tensors: Mapping[str, Tensor]) -> str:
    """Returns what is equal for networks whose tensors have the same names and shapes."""
    lines = sorted(f"{name}\0{tuple(tensor.shape)}\n" for name, tensor in tensors.items())
    return hashlib.sha256("".join(lines).encode(errors="backslashreplace")).hexdigest()


def local_header(path: str) -> Mapping[str, Tensor] | None:
    """Returns the tensors of a file or folder whose header costs little to read; None of any other.

    Raises:
      CheckpointError: it is broken.
    """
    return open_checkpoint(path).tensors if Path(path).suffix == ".safetensors" else None


def remote_header(url: str, size: int, name: str) -> Mapping[str, Tensor] | None:
    """Returns the tensors of a safetensors file at an address, by at most two requests for ranges.

    Args:
      url: of the file.
      size: bytes that it has.
      name: of the file, for messages.

    Returns:
      The tensors, whose numbers are not there and must not be read; None where the host sends the whole file or
      nothing.

    Raises:
      CheckpointError: the header is broken.
    """
    try:
        start = _range(url, 0, min(FIRST, size))
        if start is None:
            return None
        end = 8 + int.from_bytes(start[:8], "little")
        if len(start) < end <= min(size, 8 + LIMIT):
            rest = _range(url, len(start), end)
            if rest is None:
                return None
            start += rest
        with tempfile.TemporaryFile() as file:
            file.write(start)
            file.truncate(size)  # the rest takes no room
            file.flush()
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError, URLError, HTTPException):
        return None
    return open_data(data, Path(name)).tensors


def _range(url: str, start: int, stop: int) -> bytes | None:
    """Bytes `start` to `stop` of a file; None where the host does not send them alone."""
    with urlopen(Request(url, headers={"Range": f"bytes={start}-{stop - 1}"}), timeout=WAIT) as answer:
        if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return None
        content = answer.read(stop - start)
    return content if len(content) == stop - start else None
