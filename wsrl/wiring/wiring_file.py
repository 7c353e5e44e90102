"""Reads a wiring that a user hands over, in the JSON form of `wsrl.wiring.wiring`, checked against a checkpoint.

What `wsrl inspect --json` prints is such a file. Only `groups` and `tensors` are needed; `outer`, `inner` and `power`
of a segment may be left out, and its `size` where it names a group. Tensors that the file does not name stay fixed, and
operations are inferred where the file names none.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import NoReturn

from wsrl.checkpoint import Checkpoint
from wsrl.errors import InputError
from wsrl.readers.json_files import read_json_object
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.stored_names import with_whole_names
from wsrl.wiring.wiring import SOURCES, Axis, Fact, Neurons, Operation, Product, Segment, Slice, TensorAxis, Wiring

ROLES = ("input", "hidden", "output")
SCALES = ("positive", "sign", "none")
POWERS = (-1, 0, 1)
DERIVED = ("coverage", "file", "format", "wsrl")  # what `wsrl inspect --json` adds; not read back
KEYS = ("parameters", "groups", "tensors", "operations", "products", "ignored", "warnings", *DERIVED)
LARGEST = 2**48  # entries; no axis is longer
LONGEST = 300  # characters of a reason
FORM = "see what `wsrl inspect --json` prints for the form"


def read_wiring(path: str | PathLike[str], checkpoint: Checkpoint) -> Wiring:
    """Reads a user's wiring of a checkpoint.

    Raises:
      InputError: the file cannot be read, is not of the form, or does not fit the checkpoint; names tensor and axis.
    """
    try:
        data = read_json_object(Path(path))
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give a wiring file in JSON") from error
    if checkpoint.parts and isinstance(data.get("tensors"), dict):
        data = with_whole_names(data, checkpoint.parts)
    wiring = parse_wiring(data, {name: tensor.shape for name, tensor in checkpoint.tensors.items()}, path)
    return wiring if "operations" in data else replace(wiring, operations=infer_wiring(checkpoint).operations)


def parse_wiring(data: object, shapes: Mapping[str, tuple[int, ...]], file: str | PathLike[str]) -> Wiring:
    """Returns the wiring that JSON values state for tensors of these shapes; without operations if they name none.

    Args:
      data: what `Wiring.to_json` returns, or a shorter form of it.
      shapes: tensor -> shape, of all tensors of the checkpoint.
      file: for messages.

    Raises:
      InputError: see read_wiring.
    """
    return _Parser(file, shapes).wiring(data)


class _Parser:
    """Checks JSON values of one file and turns them into a wiring."""

    def __init__(self, file: str | PathLike[str], shapes: Mapping[str, tuple[int, ...]]):
        self.file = file
        self.shapes = dict(shapes)
        self.groups: dict[str, Neurons] = {}

    def wiring(self, data: object) -> Wiring:
        data = self._object(data, "the file", required=("groups", "tensors"), optional=KEYS)
        total = sum(map(math.prod, self.shapes.values()))
        if data.get("parameters", total) != total:
            self._fail(
                "parameters", f"is {data['parameters']!r}, the checkpoint has {total}", "give the checkpoint's own"
            )
        self.groups = {k: self._group(v, f"group {k!r}") for k, v in self._map(data["groups"], "groups").items()}
        axes: dict[str, tuple[Axis, ...]] = {name: (None,) * len(shape) for name, shape in self.shapes.items()}
        for name, entry in self._map(data["tensors"], "tensors").items():
            name = self._tensor(name, "tensors")
            axes[name] = self._axes(entry, name)
        ignored = tuple(self._tensor(name, "ignored") for name in self._list(data.get("ignored", []), "ignored"))
        for name in ignored:
            if any(axis is not None for axis in axes[name]):
                self._fail(f"tensor {name!r}", "is ignored and yet has axes that are not null", "remove one of the two")
        operations = self._list(data.get("operations", []), "operations")
        products = self._list(data.get("products", []), "products")
        warnings = self._list(data.get("warnings", []), "warnings")
        return Wiring(
            groups=self.groups,
            shapes=self.shapes,
            axes=axes,
            operations=tuple(self._operation(entry, i) for i, entry in enumerate(operations)),
            products=tuple(self._product(entry, f"product {i}") for i, entry in enumerate(products)),
            ignored=tuple(dict.fromkeys(ignored)),
            warnings=tuple(self._string(text, f"warning {i}") for i, text in enumerate(warnings)),
        )

    def _group(self, entry: object, where: str) -> Neurons:
        entry = self._object(entry, where, required=("size", "role", "permutable"), optional=("scale",))
        size = self._positive(entry["size"], f"size of {where}")
        role = self._choice(entry["role"], ROLES, f"role of {where}")
        if not isinstance(entry["permutable"], bool):
            self._fail(f"permutable of {where}", f"is {entry['permutable']!r}", "give true or false")
        scale = self._choice(entry.get("scale", "none"), SCALES, f"scale of {where}")
        return Neurons(size, role, entry["permutable"], scale)

    def _axes(self, entry: object, name: str) -> tuple[Axis, ...]:
        where, shape = f"tensor {name!r}", self.shapes[name]
        entry = self._object(entry, where, required=("axes",), optional=("shape",))
        if entry.get("shape", list(shape)) != list(shape):
            self._fail(
                where, f"shape {entry['shape']!r} is {list(shape)} in the checkpoint", "give the checkpoint's own"
            )
        axes = self._list(entry["axes"], f"axes of {where}")
        if len(axes) != len(shape):
            self._fail(
                where, f"{len(axes)} axes are described, it has {len(shape)}", "describe each, null if it is fixed"
            )
        return tuple(
            self._axis(axis, length, f"{where}, axis {i}")
            for i, (axis, length) in enumerate(zip(axes, shape, strict=True))
        )

    def _axis(self, axis: object, length: int, where: str) -> Axis:
        if axis is None:
            return None
        segments = tuple(
            self._segment(s, f"{where}, segment {i}") for i, s in enumerate(self._list(axis, where, empty=False))
        )
        covered = sum(s.length for s in segments)
        if covered != length:
            self._fail(where, f"its segments cover {covered} entries of {length}", "outer x size x inner must add up")
        return segments

    def _segment(self, entry: object, where: str) -> Segment:
        entry = self._object(entry, where, required=("group",), optional=("size", "outer", "inner", "power"))
        group = entry["group"]
        if group is None:
            if "size" not in entry:
                self._fail(where, "has neither a group nor a size", "give its size")
            size = self._positive(entry["size"], f"size of {where}")
        else:
            if not isinstance(group, str) or group not in self.groups:
                self._fail(where, f"there is no group {group!r}", "describe it under 'groups'")
            size = self._positive(entry.get("size", self.groups[group].size), f"size of {where}")
            if size != self.groups[group].size:
                own = self.groups[group].size
                self._fail(where, f"has size {size}, group {group!r} has size {own}", "give the group's size")
        outer, inner = (self._positive(entry.get(key, 1), f"{key} of {where}") for key in ("outer", "inner"))
        power = entry.get("power", 0)
        if type(power) is not int or power not in POWERS:
            self._fail(f"power of {where}", f"is {power!r}", "give -1, 0 or 1")
        return Segment(group, size, outer, inner, power)

    def _operation(self, entry: object, index: int) -> Operation:
        where = f"operation {index}"
        optional = ("reads", "writes", "inputs", "source", "facts")
        entry = self._object(entry, where, required=("name", "type", "tensors"), optional=optional)
        tensors = self._map(entry["tensors"], f"tensors of {where}")
        inputs = self._list(entry.get("inputs", []), f"inputs of {where}")
        if any(type(i) is not int or not 0 <= i < index for i in inputs):
            self._fail(f"inputs of {where}", f"{inputs!r} are not all earlier operations", "count operations from 0")
        facts = self._map(entry.get("facts", {}), f"facts of {where}")
        return Operation(
            name=self._string(entry["name"], f"name of {where}"),
            type=self._string(entry["type"], f"type of {where}"),
            tensors={role: self._tensor(tensor, where) for role, tensor in tensors.items()},
            reads=self._tensor_axes(entry.get("reads", []), f"reads of {where}"),
            writes=self._tensor_axes(entry.get("writes", []), f"writes of {where}"),
            inputs=tuple(inputs),
            source=self._choice(entry.get("source", "names"), SOURCES, f"source of {where}"),
            facts={name: self._fact(fact, f"fact {name!r} of {where}") for name, fact in facts.items()},
        )

    def _tensor_axes(self, entries: object, where: str) -> tuple[TensorAxis, ...]:
        found = []
        for pair in self._list(entries, where):
            pair = self._list(pair, where)
            if len(pair) != 2:
                self._fail(where, f"{pair!r} is not a tensor and an axis", FORM)
            name, axis = self._tensor(pair[0], where), pair[1]
            if type(axis) is not int or not 0 <= axis < len(self.shapes[name]):
                self._fail(where, f"tensor {name!r} has no axis {axis!r}", "count axes from 0")
            found.append((name, axis))
        return tuple(found)

    def _fact(self, entry: object, where: str) -> Fact:
        entry = self._object(entry, where, required=("value", "source"))
        value = tuple(entry["value"]) if isinstance(entry["value"], list) else entry["value"]
        plain = isinstance(value, bool | int | float | str | None)
        if not plain and not (isinstance(value, tuple) and all(type(n) is int for n in value)):
            self._fail(where, f"{value!r} is no number, text or list of integers", "give one, or null")
        return Fact(value, self._choice(entry["source"], SOURCES, f"source of {where}"))

    def _product(self, entry: object, where: str) -> Product:
        optional = ("repeat", "left_bias", "right_bias")
        entry = self._object(entry, where, required=("left", "right", "heads", "dim"), optional=optional)
        heads, dim, repeat = (self._positive(entry.get(k, 1), f"{k} of {where}") for k in ("heads", "dim", "repeat"))

        def part(key: str, length: int) -> Slice:
            found = self._slice(entry[key], f"{key} of {where}")
            if found.stop - found.start != length:
                reason = f"covers {found.stop - found.start} entries, heads x dim asks for {length}"
                self._fail(f"{key} of {where}", reason, "fix the slice, or heads, dim and repeat")
            return found

        right = heads * repeat * dim
        return Product(
            left=part("left", heads * dim),
            right=part("right", right),
            heads=heads,
            dim=dim,
            repeat=repeat,
            left_bias=part("left_bias", heads * dim) if entry.get("left_bias") is not None else None,
            right_bias=part("right_bias", right) if entry.get("right_bias") is not None else None,
        )

    def _slice(self, entry: object, where: str) -> Slice:
        entry = self._object(entry, where, required=("tensor", "axis", "start", "stop"))
        name = self._tensor(entry["tensor"], where)
        axis, start, stop = (entry[key] for key in ("axis", "start", "stop"))
        if any(type(n) is not int for n in (axis, start, stop)):
            self._fail(where, "axis, start and stop are not all integers", "give integers")
        if not 0 <= axis < len(self.shapes[name]):
            self._fail(where, f"tensor {name!r} has no axis {axis}", "count axes from 0")
        if not 0 <= start < stop <= self.shapes[name][axis]:
            reason = f"{start} to {stop} is no stretch of axis {axis} of {name!r}, of length {self.shapes[name][axis]}"
            self._fail(where, reason, "give 0 <= start < stop <= length")
        return Slice(name, axis, start, stop)

    def _tensor(self, name: object, where: str) -> str:
        if not isinstance(name, str) or name not in self.shapes:
            self._fail(
                where, f"the checkpoint has no tensor {name!r}", "remove it, or give the checkpoint's own wiring"
            )
        return name

    def _object(self, value: object, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict:
        value = self._map(value, where)
        for key in required:
            if key not in value:
                self._fail(where, f"has no {key!r}", FORM)
        for key in value:
            if key not in required + optional:
                self._fail(where, f"unknown key {key!r}", FORM)
        return value

    def _map(self, value: object, where: str) -> dict:
        if not isinstance(value, dict):
            self._fail(where, "is not an object", FORM)
        return value

    def _list(self, value: object, where: str, empty: bool = True) -> list:
        if not isinstance(value, list) or not (value or empty):
            self._fail(where, "is not a list" if not isinstance(value, list) else "is an empty list", FORM)
        return value

    def _string(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            self._fail(where, f"{value!r} is not a text", FORM)
        return value

    def _positive(self, value: object, where: str) -> int:
        if type(value) is not int or not 0 < value <= LARGEST:
            self._fail(where, f"{value!r} is not an integer from 1 to {LARGEST}", "give one")
        return value

    def _choice(self, value: object, choices: tuple[str, ...], where: str) -> str:
        if not isinstance(value, str) or value not in choices:
            self._fail(where, f"{value!r} is none of {', '.join(choices)}", "give one of them")
        return value

    def _fail(self, where: str, reason: str, fix: str) -> NoReturn:
        reason = reason if where == "the file" else f"{where}: {reason}"
        raise InputError(self.file, reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} ...", fix)
