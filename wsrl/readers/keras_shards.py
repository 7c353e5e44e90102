"""Reads the parts of Keras models that are split: `NAME.weights.json` says in which file each group's weights lie.

The layout: `ShardedH5IOStore` in `keras/src/saving/saving_lib.py` of https://github.com/keras-team/keras.
"""

from dataclasses import replace
from pathlib import Path

from wsrl.checkpoint import CheckpointError
from wsrl.readers.hdf5 import Group, open_hdf5
from wsrl.readers.json_files import read_json_object
from wsrl.readers.links import file_beside
from wsrl.readers.mapped import map_file

MAP = "weight_map"
DEPTH = 64  # of groups in groups
MEND = "save or download all of its files again"


def is_index(head: bytes) -> bool:
    """Whether a file begins as such an index does."""
    return head.lstrip()[:1] == b"{" and b'"weight_map"' in head and b'.weights.h5"' in head


def open_shards(path: Path) -> Group:
    """Returns the groups of all parts as one.

    Raises:
      CheckpointError: the index is not well-formed; a part is missing, see also hdf5.open_hdf5; two hold the same.
    """
    told = read_json_object(path).get(MAP)
    files = told.values() if isinstance(told, dict) else ()
    names = [name for value in files for name in (value if isinstance(value, list) else [value])]
    if not names:
        raise CheckpointError(path, f"its {MAP} names no file", MEND)
    result = Group({}, {}, {}, ())
    for name in dict.fromkeys(map(str, names)):
        file = file_beside(name, path)
        result = _joined(result, open_hdf5(map_file(file), file), path, 0)
    return result


def _joined(first: Group, second: Group, path: Path, depth: int) -> Group:
    if repeated := sorted(first.tensors.keys() & second.tensors.keys())[:1]:
        raise CheckpointError(path, f"tensor {repeated[0]!a} lies in several parts", MEND)
    if depth > DEPTH:
        raise CheckpointError(path, "has groups in groups without end", MEND)
    groups = dict(first.groups)
    for name, group in second.groups.items():
        groups[name] = _joined(groups[name], group, path, depth + 1) if name in groups else group
    return replace(
        first,
        attributes=first.attributes | second.attributes,
        groups=groups,
        tensors=first.tensors | second.tensors,
        left_out=first.left_out + second.left_out,
    )
