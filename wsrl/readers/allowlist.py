"""What a pickle may rebuild: PyTorch's tensors, NumPy's arrays and plain containers.

Names and arguments are those that `torch.save` (torch/_utils.py, torch/serialization.py), `torch.jit.save`
(torch/jit/_pickle.py) and NumPy (`ndarray.__reduce__`) write. Nothing is read from storages here.
"""

import re
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from wsrl.readers.number_types import number_type
from wsrl.readers.pickles import Global, Instance, Stub

TORCH_DTYPES = {
    **{"float64": "float64", "double": "float64", "float32": "float32", "float": "float32"},
    **{"float16": "float16", "half": "float16", "bfloat16": "bfloat16"},
    **{"float8_e4m3fn": "float8_e4m3fn", "float8_e5m2": "float8_e5m2"},
    **{"float8_e4m3fnuz": "float8_e4m3fnuz", "float8_e5m2fnuz": "float8_e5m2fnuz"},
    **{"float8_e8m0fnu": "float8_e8m0fnu", "bool": "bool", "uint8": "uint8", "int8": "int8"},
    **{"int16": "int16", "short": "int16", "int32": "int32", "int": "int32", "int64": "int64", "long": "int64"},
    **{"uint16": "uint16", "uint32": "uint32", "uint64": "uint64"},
    **{"complex64": "complex64", "cfloat": "complex64", "complex128": "complex128", "cdouble": "complex128"},
    **{"qint8": "int8", "quint8": "uint8", "qint32": "int32"},
}
SUBCLASS = "torch._utils _rebuild_wrapper_subclass"
STORAGES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool"},
    **{"ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "uint8"},
    **{"QInt8": "int8", "QUInt8": "uint8", "QInt32": "int32"},
}


@dataclass(frozen=True)
class Storage:
    """A stretch of memory in the file.

    Attributes:
      key: its name there.
      dtype: of its entries.
      entries: how many.
    """

    key: str
    dtype: np.dtype
    entries: int


@dataclass(frozen=True)
class Quantizer:
    """value = (integer - zero_point) * scale, both along `axis` or, if it is None, for the whole tensor."""

    scale: "float | StoredTensor"
    zero_point: "float | StoredTensor"
    axis: int | None


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage; offset and strides count entries of `dtype`. Not yet checked against the storage."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    quantizer: Quantizer | None = None


class PickledDtype:
    """A NumPy dtype, whose byte order follows as its state."""

    def __init__(self, name: object, *_: object):
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?[biufc](1|2|4|8|16)|\|?b1|bool|bfloat16", name):
            raise ValueError("an array of no numeric type")
        self.dtype = number_type(name)

    def build(self, state: object) -> None:
        """Takes the byte order."""
        match state:
            case (_, ("<" | ">" | "=" | "|") as order, *_):
                self.dtype = self.dtype.newbyteorder(order) if order in "<>" else self.dtype
            case _:
                raise ValueError("a dtype of an unknown kind")


class PickledArray:
    """A NumPy array, whose shape and bytes follow as its state."""

    def __init__(self):
        self.array = np.empty(0)

    def build(self, state: object) -> None:
        """Takes shape, dtype, order and bytes."""
        match state:
            case (_, tuple(shape), PickledDtype() as kind, fortran, bytes() | bytearray() as data):
                self.array = _array(data, kind, shape, "F" if fortran else "C")
            case _:
                raise ValueError("an array whose state is not its bytes")


def _array(data: bytes | bytearray, kind: PickledDtype, shape: tuple, order: str) -> np.ndarray:
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise ValueError("an array of an impossible shape")
    flat = np.frombuffer(data, kind.dtype) if data else np.empty(0, kind.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _frombuffer(data: object, kind: object, shape: object, order: object, *_: object) -> PickledArray:
    match data, kind, shape:
        case bytes() | bytearray(), PickledDtype(), tuple():
            result = PickledArray()
            result.array = _array(data, kind, shape, str(order))
            return result
    raise ValueError("an array that is not made of bytes")


def _scalar(kind: object, data: object = b"") -> object:
    match kind, data:
        case PickledDtype(dtype=dtype), bytes() if len(data) == dtype.itemsize:
            return np.frombuffer(data, dtype)[0].item()
    raise ValueError("a number that is not made of bytes")


def _encoded(text: object, encoding: object = "utf-8") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unexpected encoding")
    return text.encode("latin-1")


def _bytes(content: object = b"", *_: object) -> bytes:
    if not isinstance(content, bytes | bytearray):
        raise ValueError("bytes that are not made of bytes")
    return bytes(content)


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("a size that is not a whole number")
    return value


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > 64:
        raise ValueError("a shape that is not a list of numbers")
    return tuple(_whole(n) for n in value)


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return StoredTensor(storage, storage.dtype, _whole(offset), _sizes(shape), _sizes(strides))


def _tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, *_: object) -> StoredTensor:
    if not isinstance(dtype, Global) or dtype.name.removeprefix("torch ") not in TORCH_DTYPES:
        raise ValueError("a tensor of an unknown type")
    kind = number_type(TORCH_DTYPES[dtype.name.removeprefix("torch ")])
    return replace(_tensor(storage, offset, shape, strides), dtype=kind)


def _quantized_tensor(storage, offset, shape, strides, quantizer, *_: object) -> StoredTensor:
    match quantizer:
        case (Global("torch per_tensor_affine"), int() | float() as scale, int() | float() as zero_point):
            return replace(_tensor(storage, offset, shape, strides), quantizer=Quantizer(scale, zero_point, None))
        case (Global("torch per_channel_affine"), StoredTensor() as scale, StoredTensor() as zero_point, int(axis)):
            return replace(_tensor(storage, offset, shape, strides), quantizer=Quantizer(scale, zero_point, axis))
    raise ValueError("a tensor that is quantized in an unknown way")


def _parameter(data: object, *_: object) -> object:
    if not isinstance(data, StoredTensor | PickledArray):
        raise ValueError("a parameter that is no tensor")
    return data


def _from_type(function: object, kind: object, arguments: object, *state: object) -> object:
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise ValueError("a tensor of an unknown kind")
    if function.name == SUBCLASS and arguments and isinstance(arguments[0], Global):
        result = Stub(arguments[0].name, ())  # a tensor that is an object of several, as quantizers make them
        for attributes in state:
            result.build(attributes)
        return result
    if function.name not in _TENSORS:
        raise ValueError("a tensor of an unknown kind")
    return _TENSORS[function.name](*arguments)


def _dictionary(items: object = (), *_: object) -> dict:
    if isinstance(items, dict):
        return dict(items)
    if isinstance(items, list | tuple):
        pairs = [(key, value) for key, value in items if isinstance(key, str)]
        if len(pairs) == len(items):
            return dict(pairs)
    raise ValueError("a dictionary that is not made of pairs")


def _members(items: object = ()) -> list:
    """A set, which holds no tensors, as the list that it is made of."""
    if not isinstance(items, list | tuple):
        raise ValueError("a set that is not made of a list")
    return list(items)


def _first(value: object = None, *_: object) -> object:
    return value


def _size(items: object = ()) -> tuple[int, ...]:
    return _sizes(items)


def typed_storage(kind: object, key: object, entries: object) -> Storage:
    """Makes a storage from what its persistent id tells: the class, the key and the number of entries.

    Raises:
      ValueError: they are of an unknown type.
    """
    match kind:
        case Global(name):
            module, _, attribute = name.partition(" ")
            dtype = STORAGES.get(attribute.removesuffix("Storage")) if module.startswith("torch") else None
        case _:
            dtype = None
    if dtype is None or not isinstance(key, str):
        raise ValueError("a storage of an unknown type")
    return Storage(key, number_type(dtype), _whole(entries))


_TENSORS = {
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_qtensor": _quantized_tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_parameter_with_state": _parameter,
}
ALLOWED = MappingProxyType(
    {
        **_TENSORS,
        "torch._tensor _rebuild_from_type_v2": _from_type,
        "torch._tensor _rebuild_from_type": _from_type,
        "torch Size": _size,
        "torch device": lambda *_: None,
        "torch.serialization _get_layout": lambda *_: None,
        **{f"torch.jit._pickle build_{kind}list": _first for kind in ("int", "double", "bool", "tensor")},
        "torch.jit._pickle restore_type_tag": _first,
        **{f"{core}.multiarray _reconstruct": lambda *_: PickledArray() for core in ("numpy.core", "numpy._core")},
        **{f"{core}.multiarray scalar": _scalar for core in ("numpy.core", "numpy._core")},
        **{f"{core}.numeric _frombuffer": _frombuffer for core in ("numpy.core", "numpy._core")},
        "numpy dtype": PickledDtype,
        "_codecs encode": _encoded,
        "collections OrderedDict": _dictionary,
        "collections Counter": _dictionary,
        "collections defaultdict": lambda *_: {},
        **{f"{builtins} dict": _dictionary for builtins in ("builtins", "__builtin__")},
        **{f"{builtins} {kind}": _members for builtins in ("builtins", "__builtin__") for kind in ("set", "frozenset")},
        **{f"{builtins} {kind}": _bytes for builtins in ("builtins", "__builtin__") for kind in ("bytes", "bytearray")},
        # Objects that hold settings beside the weights: kept as they are, without behavior.
        "argparse Namespace": Instance,
        "pathlib PosixPath": lambda *_: None,
        "pathlib WindowsPath": lambda *_: None,
        **{
            f"{package} AttributeDict": lambda *_: {}
            for package in (
                "pytorch_lightning.utilities.parsing",
                "lightning.pytorch.utilities.parsing",
                "lightning_fabric.utilities.data",
                "lightning.fabric.utilities.data",
            )
        },
    }
)
