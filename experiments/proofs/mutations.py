"""Damages files at random, blindly and with an eye for their structure: archives, JSON, pickles.

Every mutation is a function of a random generator and bytes; the same generator gives the same damage.
"""

import io
import json
import pickletools
import re
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from random import Random

INTEGERS = (
    0,
    1,
    2,
    7,
    127,
    255,
    -1,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**60,
    2**63 - 1,
    -(2**63),
)
TEXTS = ("", "../x", "/etc/passwd", "\ud800", "x" * 300)
VALUES = (None, True, [], {}, *TEXTS, 1.5, -1.0, 1e308, float("nan"), *INTEGERS)
BOUNDARY = rb"PK..|[{}\[\]]|\0{8}|\x93NUMPY|\x80[\2-\5]|[\x20-\x7e]{8}"  # where a part of a file may begin
NAMES = ("../../escape", "/absolute", "a\\b", "..", "", "nul\0byte", "data.pkl", "archive/data.pkl", "x" * 5000)


def truncate(random: Random, data: bytes) -> bytes:
    """Cuts the file off."""
    return data[: random.randrange(len(data) + 1)]


def cut_at_boundary(random: Random, data: bytes) -> bytes:
    """Cuts the file off at or beside a place where a part of it may begin."""
    places = [
        match.start() for match in re.finditer(rb"PK..|[{}\[\]]|\0{8}|\x93NUMPY|\x80[\2-\5]|[\x20-\x7e]{8}", data)
    ]
    place = random.choice(places or [0]) + random.randint(-2, 6)
    return data[: max(place, 0)]


def flip_bits(random: Random, data: bytes) -> bytes:
    """Flips up to eight bits."""
    result = bytearray(data)
    for _ in range(random.randint(1, 8) if data else 0):
        result[random.randrange(len(result))] ^= 1 << random.randrange(8)
    return bytes(result)


def overwrite_integer(random: Random, data: bytes) -> bytes:
    """Overwrites 1, 2, 4 or 8 bytes by an integer of either byte order."""
    size = random.choice((1, 2, 4, 8))
    if len(data) < size:
        return data
    at = random.randrange(len(data) - size + 1)
    if random.random() < 0.5:
        at -= at % size
    value = random.choice(INTEGERS) % (1 << 8 * size)
    order = random.choice(("little", "little", "big"))
    return data[:at] + value.to_bytes(size, order) + data[at + size :]


def splice(random: Random, data: bytes) -> bytes:
    """Copies, moves or removes a chunk."""
    start, stop = sorted(random.randrange(len(data) + 1) for _ in range(2))
    at = random.randrange(len(data) + 1)
    chunk = data[start:stop][: random.choice((8, 64, 4096))]
    return random.choice(
        (
            data[:at] + chunk + data[at:],
            data[:at] + chunk + data[at + len(chunk) :],
            data[:start] + data[start + len(chunk) :],
            data + data[start:],
            data[:at] + bytes(random.choice((1, 16, 4096))) + data[at:],
        )
    )


def change_number(random: Random, data: bytes) -> bytes:
    """Replaces a number that is written in text."""
    found = list(re.finditer(rb"-?\d+", data))
    if not found:
        return data
    match = random.choice(found)
    value = random.choice((*INTEGERS, int(match[0][:18]) + 1, int(match[0][:18]) - 1))
    text = b"9" * 5000 if random.random() < 0.02 else str(value).encode()
    return data[: match.start()] + text + data[match.end() :]


def change_text(random: Random, data: bytes) -> bytes:
    """Replaces a word by another of the file."""
    words = list(re.finditer(rb"[A-Za-z_][\w.]{2,30}", data))
    if not words:
        return data
    match, other = random.choice(words), random.choice(words)[0]
    if random.random() < 0.5:
        other = (other * 30)[: len(match[0])]
    return data[: match.start()] + other + data[match.end() :]


def change_json(random: Random, data: bytes) -> bytes:
    """Changes, repeats or removes an entry of a JSON object, alone or behind its length in eight bytes."""
    start = 0 if data[:1] == b"{" else 8
    stop = len(data) if not start else 8 + int.from_bytes(data[:8], "little")
    try:
        value = json.loads(data[start:stop])
    except (ValueError, OverflowError):
        return flip_bits(random, data)
    text = json.dumps(_changed(random, value)).encode()
    if random.random() < 0.1:
        text = text.replace(b",", random.choice((b",,", b"", b',"a":1,', b"[" * 3000)), 1)
    if random.random() < 0.05:
        text = b'{"a":' * 50_000
    head = len(text).to_bytes(8, "little") if start else b""
    return head + text + data[stop:]


def _changed(random: Random, value: object) -> object:
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        match random.randrange(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {random.choice(("../x", "", "\udc80", key + "2", "__metadata__")): value[key]}
            case _:
                return value | {key: _changed(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.7:
        at = random.randrange(len(value))
        match random.randrange(4):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + value[at:] * random.choice((2, 40))
            case _:
                return [*value[:at], _changed(random, value[at]), *value[at + 1 :]]
    return random.choice(VALUES)


def change_pickle(random: Random, data: bytes) -> bytes:
    """Removes, repeats, moves or replaces opcodes of a pickle, or adds others."""
    try:
        places = [place or 0 for _, _, place in pickletools.genops(data)]  # of bytes no place is None
    except ValueError:
        return overwrite_integer(random, data)
    stop = places[-1] + 1
    ends = [*places[1:], stop]
    ops = [data[start:end] for start, end in zip(places, ends, strict=True)]
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(ops))
        match random.randrange(6):
            case 0:
                del ops[at]
            case 1:
                ops.insert(at, random.choice(ops))
            case 2:
                other = random.randrange(len(ops))
                ops[at], ops[other] = ops[other], ops[at]
            case 3:
                ops[at] = random.choice(HOSTILE)
            case _:
                ops.insert(at, random.choice(HOSTILE))
        if not ops:
            break
    return b"".join(ops) + data[stop:]


HOSTILE = (  # parts of pickles
    *(opcode.code.encode("latin-1") for opcode in pickletools.opcodes),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"c__main__\nNet\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"(ios\nsystem\n"),
    *(b"\x82\x01", b"\x83\x01\x00", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"h\x00", b"h\x01", b"q\x00", b"K\xff"),
    *(b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\x00" * 7 + b"\x10", b"\x8b\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8),
    *(
        b"\x95" + b"\xff" * 8,
        b"X\xff\xff\xff\xff",
        b"G\x7f\xf0\0\0\0\0\0\0",
        b"I" + b"9" * 5000 + b"\n",
        b"0",
        b"2",
        b"(",
        b"t",
    ),
)


def change_archive(random: Random, data: bytes) -> bytes:
    """Changes the members of a zip archive, whose table stays in order."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError, EOFError, RuntimeError):
        return splice(random, data)
    if not members:
        return data
    at = random.randrange(len(members))
    name, content, packing = members[at]
    match random.randrange(8):
        case 0:
            del members[at]
        case 1:
            members.insert(random.randrange(len(members) + 1), (name, content, packing))
        case 2:
            members[at] = (random.choice((*NAMES, members[0][0], name + "x")), content, packing)
        case 3:
            other = random.randrange(len(members))
            members[at], members[other] = (name, members[other][1], packing), (members[other][0], content, packing)
        case 4:
            members[at] = (name, bytes(random.choice((0, 10**6))), zipfile.ZIP_DEFLATED)
        case _:
            members[at] = (name, mutate_bytes(random, content), packing)
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w") as archive:  # names that occur twice
        for member, inside, kind in members:
            archive.writestr(zipfile.ZipInfo(member), inside, kind)
    return file.getvalue()


BLIND = (truncate, cut_at_boundary, flip_bits, overwrite_integer, splice, change_number, change_text)


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Damages a file in one way."""
    aware = ()
    if data[:2] == b"PK":
        aware = (change_archive,) * 8
    elif data[:1] == b"\x80":
        aware = (change_pickle,) * 8
    elif data[:1] == b"{" or data[8:9] == b"{":
        aware = (change_json,) * 6
    return random.choice((*BLIND, *aware))(random, data)


def mutate(random: Random, source: Path, folder: Path) -> Path:
    """Writes a damaged copy of a sample.

    Args:
      random: decides on the damage.
      source: a file, whose neighbors are copied too, or a folder.
      folder: where the copy goes; does not exist yet.

    Returns:
      The path in the copy that stands for `source`.
    """
    root = source if source.is_dir() else source.parent
    shutil.copytree(root, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    victim = random.choice(files)
    if len(files) > 1 and random.random() < 0.05:
        victim.unlink()
    else:
        victim.write_bytes(mutate_bytes(random, victim.read_bytes()))
    return folder / source.relative_to(root)
