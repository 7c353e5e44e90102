"""Writes files as PyTorch does, without PyTorch: pickles whose names need not exist here, and their storages."""

# Methods of pickle's Python implementation are used, which its type stubs leave out.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass

import numpy as np

KINDS = {
    **{"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long"},
    **{"int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool"},
}
MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True, eq=False)
class Name:
    """A global."""

    module: str
    attribute: str


@dataclass(frozen=True, eq=False)
class Call:
    """What calling a function gives; with a state if there is one."""

    function: object
    arguments: tuple
    state: object = None


@dataclass(frozen=True, eq=False)
class Storage:
    """A storage: its class, its key and what it holds."""

    kind: str
    key: str
    content: np.ndarray


class Pickler(pickle._Pickler):
    """Writes names, calls and storages as the opcodes that torch.save writes for them."""

    dispatch = pickle._Pickler.dispatch.copy()
    legacy = False

    def persistent_id(self, obj):
        """Says where a storage lies; see `pickle.Pickler`."""
        if not isinstance(obj, Storage):
            return None
        identity = ("storage", Name("torch", obj.kind), obj.key, "cpu", obj.content.size)
        return (*identity, None) if self.legacy else identity

    def save_name(self, obj):
        """Writes a name that need not exist here."""
        self.write(b"c" + obj.module.encode() + b"\n" + obj.attribute.encode() + b"\n")
        self.memoize(obj)

    def save_call(self, obj):
        """Writes a call without doing it."""
        self.save(obj.function)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)
        self.memoize(obj)
        if obj.state is not None:
            self.save(obj.state)
            self.write(pickle.BUILD)

    dispatch[Name] = save_name
    dispatch[Call] = save_call


def dumps(value, legacy=False, protocol=2):
    """The pickle of a value that may hold names, calls and storages."""
    file = io.BytesIO()
    pickler = Pickler(file, protocol)
    pickler.legacy = legacy
    pickler.dump(value)
    return file.getvalue()


def storage(array, key):
    """A storage of all entries of an array."""
    return Storage(f"{KINDS[array.dtype.name]}Storage", str(key), np.ascontiguousarray(array).ravel())


def view(stored, offset, shape, strides):
    """A tensor over a storage."""
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), (stored, offset, shape, strides, False, ordered({})))


def tensor(array, key):
    """A tensor with a storage of its own."""
    strides = tuple(s // array.itemsize for s in np.ascontiguousarray(array).strides)
    return view(storage(array, key), 0, array.shape, strides if array.ndim else ())


def ordered(items):
    """An OrderedDict."""
    return Call(Name("collections", "OrderedDict"), ([[k, v] for k, v in items.items()],) if items else ())


def state_dict(arrays):
    """An OrderedDict of tensors; and their storages."""
    tensors = {name: tensor(array, key) for key, (name, array) in enumerate(arrays.items())}
    return ordered(tensors), [t.arguments[0] for t in tensors.values()]


def zip_bytes(value, storages, root="archive", compression=zipfile.ZIP_STORED, script=False, **members):
    """What torch.save writes, or torch.jit.save does."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", dumps(value))
        archive.writestr(f"{root}/byteorder", "little")
        for item in storages:
            archive.writestr(f"{root}/data/{item.key}", item.content.tobytes())
        if script:
            archive.writestr(f"{root}/code/__torch__.py", "class Net(Module):\n  pass\n")
            archive.writestr(f"{root}/constants.pkl", dumps(()))
        for name, content in members.items():
            archive.writestr(f"{root}/{name}", content)
        archive.writestr(f"{root}/version", "3\n")
    return file.getvalue()


def legacy_bytes(value, storages):
    """What torch.save wrote before PyTorch 1.6."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [dumps(MAGIC), dumps(1001), dumps(facts), dumps(value, legacy=True), dumps([s.key for s in storages])]
    for item in storages:
        parts += [struct.pack("<q", item.content.size), item.content.tobytes()]
    return b"".join(parts)


def script_module(attributes):
    """An object of a TorchScript class with attributes, as its archive's data.pkl holds it."""
    return Call(Name("__torch__.net", "Net"), (), attributes)
