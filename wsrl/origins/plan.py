"""Plans to free the bytes of duplicates. Nothing here removes anything; what carries out a plan checks each step again.

A step names a file to keep and a copy of it, both with device, inode, size and time of change as they were when the
plan was made. Files of the same bytes are compared byte by byte before anything is done; others, which hold the same
weights in another form, by the SHA-256 that they had.
"""

import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import fsencode
from os.path import relpath

from wsrl import __version__
from wsrl.comparison.relation import Kind
from wsrl.origins.disk import OnDisk
from wsrl.origins.duplicates import Group
from wsrl.origins.keeper import Copy
from wsrl.signature.digest import content_digest

VERSION = 1  # of the JSON form
FORMS = ("sh", "json", "fclones")
NANO = 10**9


@dataclass(frozen=True)
class Step:
    """A file to keep and a copy that could go.

    Attributes:
      kind: `Kind.SAME_FILE`, or how else the models are the same.
      keep, copy: the files.
      digests: SHA-256 of both; empty for files of the same bytes, which are compared directly.
    """

    kind: Kind
    keep: OnDisk
    copy: OnDisk
    digests: tuple[str, str] | None = None


def steps(groups: Sequence[Group], kinds: Collection[Kind] = (Kind.SAME_FILE,)) -> Iterator[Step]:
    """Yields the steps of the groups of some kinds; hard links and what may not be removed need none.

    Where bytes differ, the kept model must be a single file, so that a step can check all of it.

    Raises:
      CheckpointError: a file of different bytes cannot be read.
    """
    for group in groups:
        if group.kind in kinds:
            first, *others = group.copies
            for copy in others:
                if copy.removable and first.files:
                    yield from _of_copy(group.kind, first, copy)


def _of_copy(kind: Kind, first: Copy, copy: Copy) -> Iterator[Step]:
    if kind == Kind.SAME_FILE:
        own = {_within(file, copy): file for file in copy.files}
        pairs = [(file, own[_within(file, first)]) for file in first.files if _within(file, first) in own]
    else:
        pairs = [(first.files[0], file) for file in copy.files] if len(first.files) == 1 else []
    for keep, file in pairs:
        if (keep.device, keep.inode) != (file.device, file.inode):
            digests = None if kind == Kind.SAME_FILE else (content_digest(keep.path), content_digest(file.path))
            yield Step(kind, keep, file, digests)


def _within(file: OnDisk, copy: Copy) -> str:
    """The place of a file in its model, the same in another copy of the model whatever that is called."""
    named = copy.files[0].path
    if file.path == named and len(copy.files) == 1:
        return ""
    return relpath(file.path, copy.path) if file.path.startswith(copy.path + "/") else relpath(file.path, named)


def emit(form: str, found: Sequence[Step]) -> bytes:
    """Writes steps as a shell script, as JSON, or as a report that `fclones remove` and `fclones link` read."""
    return {"sh": _script, "json": _json, "fclones": _fclones}[form](found)


SCRIPT = """#!/bin/sh
# Copies of files, found by wsrl {version}: {steps} steps, {bytes} bytes. Nothing is removed unless it is asked for:
#   sh FILE check     compares and tells what could be done (the default)
#   sh FILE remove    removes the copies
#   sh FILE link      puts hard links to the kept files in place of copies of the same bytes
# Before each step device, inode, size and time of both files must be as they were, and all bytes are compared again.
action=${{1:-check}} failed=0
case $action in check|remove|link) ;; *) echo "usage: sh FILE [check|remove|link]" >&2; exit 2 ;; esac
state() {{ stat -c '%d %i %s %Y' "$1" 2>/dev/null || stat -f '%d %i %z %m' "$1" 2>/dev/null; }}
sha() {{ {{ sha256sum "$1" 2>/dev/null || shasum -a 256 "$1"; }} | sed 's/^\\\\//; s/ .*//'; }}
skip() {{ printf 'left alone: %s: %s\\n' "$1" "$2" >&2; failed=1; }}
step() {{ # kept file, its state, copy, its state, and SHA-256 of both where the bytes differ
  [ "$(state "$1")" = "$2" ] || {{ skip "$3" "the file to keep has changed"; return; }}
  [ "$(state "$3")" = "$4" ] || {{ skip "$3" "it has changed"; return; }}
  if [ $# -eq 4 ]; then
    cmp -s "$1" "$3" || {{ skip "$3" "its bytes are others"; return; }}
  else
    [ "$(sha "$1")" = "$5" ] && [ "$(sha "$3")" = "$6" ] || {{ skip "$3" "its bytes are others"; return; }}
    [ "$action" != link ] || {{ skip "$3" "its bytes are not those of the kept file"; return; }}
  fi
  case $action in
    check) printf 'can go: %s\\n' "$3" ;;
    remove) rm -f "$3" && printf 'removed: %s\\n' "$3" || failed=1 ;;
    link) ln "$1" "$3.wsrl-link" && mv -f "$3.wsrl-link" "$3" && printf 'linked: %s\\n' "$3" || failed=1 ;;
  esac
}}
"""


def _script(found: Sequence[Step]) -> bytes:
    lines = [SCRIPT.format(version=__version__, steps=len(found), bytes=_bytes(found)).encode()]
    for step in found:
        words = [step.keep.path, _state(step.keep), step.copy.path, _state(step.copy), *(step.digests or ())]
        lines.append(b"step " + b" ".join(fsencode(shlex.quote(word)) for word in words) + b"\n")
    return b"".join(lines) + b"exit $failed\n"


def _state(file: OnDisk) -> str:
    return f"{file.device} {file.inode} {file.size} {file.mtime // NANO}"


def _json(found: Sequence[Step]) -> bytes:
    def about(file: OnDisk, digest: str | None) -> dict[str, object]:
        kept = {key: getattr(file, key) for key in ("path", "size", "mtime", "device", "inode")}
        return {**kept, "sha256": digest} if digest else kept

    listed = [
        {
            "kind": str(step.kind),
            "keep": about(step.keep, step.digests[0] if step.digests else None),
            "copy": about(step.copy, step.digests[1] if step.digests else None),
        }
        for step in found
    ]
    return json.dumps({"wsrl": VERSION, "bytes": _bytes(found), "steps": listed}, indent=1).encode() + b"\n"


def _fclones(found: Sequence[Step]) -> bytes:
    """The JSON report of fclones 0.35, which keeps the first file of each group and checks the others itself."""
    groups: dict[str, list[OnDisk]] = {}
    for step in found:
        if step.kind == Kind.SAME_FILE:
            groups.setdefault(step.keep.path, [step.keep]).append(step.copy)
    total = sum(len(own) for own in groups.values())
    size = sum(file.size for own in groups.values() for file in own)
    extra = sum(file.size for own in groups.values() for file in own[1:])
    stats = {
        **{"group_count": len(groups), "total_file_count": total, "total_file_size": size},
        **{"redundant_file_count": total - len(groups), "redundant_file_size": extra},
        **{"missing_file_count": 0, "missing_file_size": 0},
    }
    header = {
        "version": "0.35.0",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "command": ["wsrl", "duplicates"],
        "base_dir": "/",
        "stats": stats,
    }
    listed = [
        {"file_len": own[0].size, "file_hash": content_digest(path)[:32], "files": [file.path for file in own]}
        for path, own in groups.items()
    ]
    return (
        json.dumps({"header": header, "groups": listed}, indent=1, ensure_ascii=False).encode(errors="surrogateescape")
        + b"\n"
    )


def _bytes(found: Sequence[Step]) -> int:
    return sum({(step.copy.device, step.copy.inode): step.copy.size for step in found}.values())
