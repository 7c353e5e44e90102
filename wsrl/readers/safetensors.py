"""Reads safetensors files: a JSON header of types, shapes and offsets, then the bytes of the tensors.

The format: https://github.com/huggingface/safetensors, section "Format". The header is parsed here rather than by the
library so that tensors stay mapped and eight-bit floating point is known whatever the library's version.
"""

from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.readers.budget import Budget
from wsrl.readers.json_files import LIMIT, parse_json_object
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, map_file
from wsrl.readers.number_types import number_type

TYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "C64": "complex64"},
}
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # packed types; their tensors are left out
MEND = "write or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether a JSON object begins where the header does."""
    return head[8:9] == b"{" and head[9:10] in (b'"', b"}", b" ", b"\n", b"\t", b"\r")


def open_file(path: Path) -> Checkpoint:
    """Opens a safetensors file; tensors in the order of their bytes.

    Raises:
      CheckpointError: the header is not well-formed, or its tensors overlap, leave gaps or do not fill the file.
    """
    return open_data(map_file(path), path)


def open_data(data: Bytes, path: Path) -> Checkpoint:
    """Opens the bytes of such a file, which may lie in another; raises CheckpointError as open_file does."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if not 2 <= length <= len(data) - 8:
        reason = f"its header claims {length} bytes where the file has {max(len(data) - 8, 0)}"
        raise CheckpointError(path, reason, MEND)
    if length > LIMIT:
        raise CheckpointError(path, f"its header claims {length} bytes, more than {LIMIT}", MEND)
    header = parse_json_object(data[8 : 8 + length].tobytes(), path, "its header")
    metadata = header.pop("__metadata__", None) or {}  # some writers put null
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(path, "its metadata is not a table of texts", MEND)
    return _arranged(header, metadata, data[8 + length :], path)


def _arranged(header: dict, metadata: dict, data: Bytes, path: Path) -> Checkpoint:
    items = Budget(path, len(data)).each(header.items())
    entries = sorted((_entry(name, fields, path) for name, fields in items), key=lambda e: (e[3], e[4]))
    tensors, left_out, end = {}, [], 0
    for name, kind, shape, start, stop in entries:
        if start != end:
            problem = "overlaps the tensor before it" if start < end else "leaves a gap before it"
            raise CheckpointError(path, f"tensor {name!r} {problem}", MEND)
        if stop > len(data):
            reason = f"tensor {name!r} ends at byte {stop} of {len(data)} bytes of data"
            raise CheckpointError(path, reason, MEND)
        end = stop
        if kind in TYPES:
            array = data[start:stop].view(number_type(TYPES[kind])).reshape(shape)
            tensors[name] = LazyTensor.of(array, path, name)
        else:
            left_out.append(name)
    if end != len(data):
        raise CheckpointError(path, f"{len(data) - end} bytes after its last tensor belong to none", MEND)
    return Checkpoint(str(path), tensors, {**metadata, "left_out": tuple(left_out)})


def _entry(name: str, fields: object, path: Path) -> tuple[str, str, tuple[int, ...], int, int]:
    match fields:
        case {"dtype": str(kind), "shape": shape, "data_offsets": [int(start), int(stop)]}:
            shape = checked_shape(shape, path, checked_name(name, path))
        case _:
            raise CheckpointError(path, f"the header's entry of tensor {name!a:.80} is not well-formed", MEND)
    bits = number_type(TYPES[kind]).itemsize * 8 if kind in TYPES else BITS.get(kind)
    if bits is None:
        raise CheckpointError(path, f"tensor {name!r} is of the unknown type {kind!r:.40}", MEND)
    size = 1
    for n in shape:
        size *= n
    if not 0 <= start <= stop or (stop - start) * 8 != size * bits:
        reason = f"tensor {name!r} of {size} entries of {kind} is said to lie in bytes {start} to {stop}"
        raise CheckpointError(path, reason, MEND)
    return name, kind, shape, start, stop
