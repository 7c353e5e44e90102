"""Reads a model within a zip or tar archive: `.nemo`, `.tar.gz`, `.zip` around a file of weights.

Nothing is unpacked to disk. Members of a zip or tar file are mapped where they are stored as they are; what is
compressed is unpacked in memory, within bounds.
"""

import gzip
import tarfile
import zlib
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from wsrl.checkpoint import Checkpoint, CheckpointError, one_line
from wsrl.readers import safetensors
from wsrl.readers.archives import MAGIC, Archive
from wsrl.readers.json_files import LIMIT, parse_json_object
from wsrl.readers.mapped import Bytes, map_file, memory_limit
from wsrl.readers.pytorch import PICKLE, open_torch_archive

GZIP = b"\x1f\x8b"
TAR, TAR_AT = b"ustar", 257
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")  # of members that may be weights
OTHER = (".onnx", ".h5", ".keras", ".tflite", ".gguf", ".msgpack", ".npz")  # and of those that cannot be read here
MOST_MEMBERS = 10_000
SHOWN = 5
MEND = "write or download it again"
BROKEN = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, OverflowError)


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is a zip archive, a tar archive, or compressed by gzip."""
    return head.startswith((MAGIC, GZIP)) or head[TAR_AT : TAR_AT + len(TAR)] == TAR


def open_file(path: Path) -> Checkpoint:
    """Opens the one file of weights in an archive.

    The metadata has `member`, its name, and `config` from a `config.json` in the same folder of the archive.

    Raises:
      CheckpointError: the archive is broken or would take too much memory; it holds no weights, or several files.
    """
    data = map_file(path)
    content = _unzipped(path, len(data)) if data[:2].tobytes() == GZIP else None
    data = data if content is None else np.frombuffer(content, np.uint8)
    if data[: len(MAGIC)].tobytes() == MAGIC:
        archive = Archive(data, path)
        names, read = list(archive.members), archive.read
    else:
        with open(path, "rb") if content is None else BytesIO(content) as file:
            members = _tar_members(file, data, path)
        names, read = list(members), members.__getitem__
    weights = [name for name in names if PurePosixPath(name).suffix in ENDINGS]
    if len(weights) != 1:
        others = weights or [name for name in names if PurePosixPath(name).suffix in OTHER]
        shown = ", ".join(f"{name!a:.80}" for name in others[:SHOWN])
        if not others:
            raise CheckpointError(path, "is an archive without a file of weights", "give the file of a model")
        raise CheckpointError(path, f"is an archive of {len(others)} models: {shown}", "unpack it and give one of them")
    (name,) = weights
    checkpoint = _open_member(read(name), path, name)
    config = str(PurePosixPath(name).with_name("config.json"))
    beside = next((other for other in names if str(PurePosixPath(other)) == config), None)
    metadata = {**checkpoint.metadata, "member": name}
    if beside is not None:
        metadata["config"] = parse_json_object(read(beside)[: LIMIT + 1].tobytes(), path, f"its member {beside!r}")
    return Checkpoint(str(path), checkpoint.tensors, metadata)


def _open_member(data: Bytes, path: Path, name: str) -> Checkpoint:
    head = data[:16].tobytes()
    if safetensors.matches(head, path):
        return safetensors.open_data(data, path)
    if head.startswith(MAGIC):
        inner = Archive(data, path)
        if any(member.rpartition("/")[2] == PICKLE for member in inner.members):
            return open_torch_archive(inner)
    raise CheckpointError(path, f"its member {name!a:.80} is of no format that is read in archives", "unpack it first")


def _unzipped(path: Path, size: int) -> bytes:
    most = memory_limit(size)
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except BROKEN as error:
        raise CheckpointError(path, f"cannot be unpacked ({one_line(error)})", MEND) from error
    if len(content) > most:
        reason = f"would unpack to more than {most} bytes, too many for a file of {size}"
        raise CheckpointError(path, reason, "unpack it if you trust it")
    return content


def _tar_members(file: BufferedReader | BytesIO, data: Bytes, path: Path) -> dict[str, UInt8[np.ndarray, "..."]]:
    """The files in a tar archive, as stretches of its bytes."""
    members = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= MOST_MEMBERS:
                    raise CheckpointError(path, f"has more than {MOST_MEMBERS} members", "unpack it if you trust it")
                start, stop = member.offset_data, member.offset_data + member.size
                if not member.isreg() or member.issparse():
                    continue
                if stop > len(data):
                    raise CheckpointError(path, f"its member {member.name!a:.80} ends beyond it", MEND)
                if member.name in members:
                    raise CheckpointError(path, "two members of the archive have the same name", MEND)
                members[member.name] = data[start:stop]
    except BROKEN as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(path, f"is not a readable tar archive ({one_line(error)})", MEND) from error
    if {"pickle", "storages", "tensors", "sys_info"} <= members.keys():
        fix = "load it with PyTorch and save its state_dict() again"
        raise CheckpointError(path, "is in the tar format of PyTorch before 0.1.10", fix)
    return members
