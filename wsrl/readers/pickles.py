"""Reads pickles without running them: an interpreter that imports nothing and calls its own few functions only.

The opcodes are those of the standard library's `pickletools`, which splits the stream. Names in the stream
(`torch._utils _rebuild_tensor_v2`) are texts here: those on an allow-list are given to a function of this project.
What any other would make is a Stub, which keeps what the pickle holds of it and does nothing; names that serve to run
code are refused at sight.
"""

import io
import mmap
import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from wsrl.checkpoint import CheckpointError, one_line
from wsrl.readers.budget import Budget
from wsrl.readers.mapped import LONGEST_NAME
from wsrl.readers.pickle_names import ARRAYS_OUTSIDE, runs_code

MEND = "save the model's state_dict() alone, best as safetensors"
OUTSIDE = "load it with joblib where you trust it, and save the network's arrays as .npz"
DISTRUST = "do not load this file anywhere; get the model from a source that you trust"
# Memory that an opcode may make the interpreter take, in bytes; what it carries itself is no more than the file.
COST = 64
COSTS = {"EMPTY_SET": 256, "FROZENSET": 256, "MEMOIZE": 128, "PUT": 128, "BINPUT": 128, "LONG_BINPUT": 128}
STUB = 512
LONGEST_KEY = 16  # texts in a tuple
MAKERS = ("copyreg _reconstructor", "copy_reg _reconstructor", "copyreg __newobj__")  # called with a class
LARGEST_KEY = 1 << 60  # larger integers collide in Python's tables, which makes them slow


@dataclass(frozen=True)
class Global:
    """A name that the pickle mentions, module and attribute parted by a space. Stands for nothing else."""

    name: str


class Instance:
    """An object of a TorchScript class, or of a class that holds data only: its state, without behavior."""

    def __init__(self, *state: object):
        self.state: list[object] = list(state)

    def build(self, state: object) -> None:
        """Keeps the state."""
        self.state.append(state)


class Stub(Instance):
    """An object of a class or a function that is not known here: what the pickle holds of it. Nothing is ever called.

    Attributes:
      name: of the class or function, as in Global.
      arguments: what it would have been called with.
    """

    def __init__(self, name: str, arguments: tuple):
        super().__init__()
        self.name = name
        self.arguments = arguments

    def attributes(self) -> dict[object, object]:
        """What was set on the object by name, by `__dict__` and `__slots__` alike, and as items of a mapping."""
        result: dict[object, object] = {}
        for state in self.state:
            for part in state if isinstance(state, tuple) else (state,):
                result |= part if isinstance(part, dict) else {}
        return result

    def items(self) -> list[tuple[object, object]]:
        """All that the object holds: arguments and items of lists by number, attributes by name."""
        listed = [item for state in self.state if isinstance(state, list) for item in state]
        return [*enumerate((*self.arguments, *listed)), *self.attributes().items()]


Stream = io.BytesIO | mmap.mmap


def read_pickle(
    stream: Stream,
    allowed: Mapping[str, Callable],
    path: Path,
    size: int,
    persistent: Callable[[object], object] | None = None,
) -> object:
    """Reads one pickle and leaves the stream behind its end.

    Args:
      stream: at the pickle's first byte.
      allowed: name as in Global -> function that makes the value from the arguments in the pickle. It raises
        ValueError or TypeError for arguments that do not fit.
      path: of the file, for messages.
      size: of the file in bytes; bounds the number of opcodes.
      persistent: makes the value of a persistent id; without it, there may be none.

    Returns:
      None, numbers, texts, bytes, lists, tuples, dictionaries, sets, Global, Instance, Stub, and what the functions
      return. Containers may contain themselves.

    Raises:
      CheckpointError: the pickle is broken, or names something that serves to run code.
    """
    machine = _Machine(allowed, path, persistent, Budget(path, size))
    try:
        for name, argument in _opcodes(stream):
            machine.budget.spend(COSTS.get(name, COST))
            if name not in STEPS:
                reason = f"its pickle uses the opcode {name}, which no checkpoint needs"
                raise CheckpointError(path, reason, MEND)
            STEPS[name](machine, argument)
        return machine.stack.pop()
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = f"its pickle is broken ({one_line(error)})"
        raise CheckpointError(path, reason, "write or download it again") from error


def _opcodes(stream: Stream) -> Iterator[tuple[str, Any]]:
    with warnings.catch_warnings(action="ignore"):  # of odd escapes in texts
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
            yield opcode.name, argument


class _Machine:
    """The stack, the marks and the memo of a pickle.

    A method an opcode or group of them; IndexError, KeyError, TypeError or ValueError where it cannot be done.
    """

    def __init__(
        self,
        allowed: Mapping[str, Callable],
        path: Path,
        persistent: Callable[[object], object] | None,
        budget: Budget,
    ):
        self.budget = budget
        self.allowed = allowed
        self.path = path
        self.persistent = persistent
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}

    def push(self, argument) -> None:
        self.stack.append(argument)

    def get(self, argument) -> None:
        self.stack.append(self.memo[argument])

    def put(self, argument) -> None:
        self.memo[argument] = self.stack[-1]

    def memoize(self, _) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def mark(self, _) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def popped(self, _=None) -> list:
        """Returns what lies above the last mark."""
        top, self.stack = self.stack, self.marks.pop()
        return top

    def pop(self, _) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.popped()

    def duplicate(self, _) -> None:
        self.stack.append(self.stack[-1])

    def top(self, count: int) -> list:
        """Takes that many values off the stack."""
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def append(self, values: list) -> None:
        match self.stack[-1]:
            case list(target):
                target.extend(values)
            case Stub() as stub:
                stub.build(list(values))
            case _:
                raise TypeError("appends to what is no list")

    def set_items(self, values: list) -> None:
        match self.stack[-1]:
            case dict(target):
                target.update(_pairs(values))
            case Instance() as instance:
                instance.build(_pairs(values))
            case _:
                raise TypeError("sets an item of what is no dictionary")

    def add_items(self, values: list) -> None:
        match self.stack[-1]:
            case set(target):
                target.update(map(_key, values))
            case Stub() as stub:
                stub.build(list(values))
            case _:
                raise TypeError("adds to what is no set")

    def global_(self, argument: str) -> None:
        self.stack.append(self.named(*argument.split(" ", 1)))

    def stack_global(self, _) -> None:
        module, attribute = self.top(2)
        self.stack.append(self.named(module, attribute))

    def inst(self, argument: str) -> None:
        name = self.named(*argument.split(" ", 1))
        arguments = tuple(self.popped())
        self.stack.append(self.call(name, arguments))

    def obj(self, _) -> None:
        function, *arguments = self.popped()
        self.stack.append(self.call(function, tuple(arguments)))

    def reduce(self, _) -> None:
        function, arguments = self.top(2)
        self.stack.append(self.call(function, arguments))

    def new_with_keywords(self, _) -> None:
        keywords = self.stack.pop()
        self.reduce(None)
        if keywords != {}:
            match self.stack[-1], keywords:
                case Stub() as stub, dict():
                    stub.build(keywords)
                case _:
                    raise TypeError("makes an object with keywords")

    def build(self, _) -> None:
        state = self.stack.pop()
        match self.stack[-1]:
            case dict():  # attributes of an OrderedDict: the versions of a state_dict's modules
                pass
            case Global(name):
                raise CheckpointError(self.path, f"its pickle changes {_shown(name)}", DISTRUST)
            case target if hasattr(target, "build"):
                target.build(state)
            case _:
                raise TypeError("gives a state to a value without one")

    def resolve(self, _) -> None:
        if self.persistent is None:
            raise TypeError("a persistent id")
        self.stack.append(self.persistent(self.stack.pop()))

    def named(self, module: object, attribute: object) -> Global:
        """Returns a name as a text, unless it serves to run code."""
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise TypeError("a global without a name")
        if len(module) + len(attribute) > LONGEST_NAME:
            raise ValueError("a global with a long name")
        name = f"{module} {attribute}"
        if module == ARRAYS_OUTSIDE:
            raise CheckpointError(self.path, "is a pickle of joblib, whose arrays lie outside of it", OUTSIDE)
        if name not in self.allowed and runs_code(module, attribute):
            reason = f"its pickle asks for {_shown(name)}, which can run code"
            raise CheckpointError(self.path, reason, DISTRUST)
        return Global(name)

    def call(self, function: object, arguments: object) -> object:
        """Makes a value by a function of the allow-list, or a Stub of what is not on it."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("calls what is no function")
        self.budget.spend(sum(map(_weight, arguments), _weight(arguments)))  # what is made may be a copy of them
        if function.name in self.allowed:
            return self.allowed[function.name](*arguments)
        if function.name.startswith("__torch__"):  # classes of TorchScript, whose code lies elsewhere in the archive
            return Instance(*arguments)
        self.budget.spend(STUB)
        made = arguments[0] if arguments and function.name in MAKERS else function
        return Stub(made.name if isinstance(made, Global) else function.name, arguments)


STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, argument: None),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Machine.push),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.push),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    "MARK": _Machine.mark,
    "POP_MARK": _Machine.popped,
    "POP": _Machine.pop,
    "DUP": _Machine.duplicate,
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.top(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.top(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.top(3))),
    "TUPLE": lambda machine, _: _collect(machine, tuple),
    "LIST": lambda machine, _: _collect(machine, list),
    "DICT": lambda machine, _: _collect(machine, _pairs),
    "FROZENSET": lambda machine, _: _collect(machine, lambda items: frozenset(map(_key, items))),
    "APPEND": lambda machine, _: machine.append(machine.top(1)),
    "APPENDS": lambda machine, _: machine.append(machine.popped()),
    "SETITEM": lambda machine, _: machine.set_items(machine.top(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.popped()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.popped()),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.inst,
    "OBJ": _Machine.obj,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.resolve,
}


def _collect(machine: _Machine, kind: Callable[[list], object]) -> None:
    items = machine.popped()
    machine.push(kind(items))


def _weight(value: object) -> int:
    match value:
        case str() | bytes() | bytearray():
            return len(value)
        case list() | tuple() | dict() | set() | frozenset():
            return COST * len(value)
        case _:
            return 0


def _shown(name: str) -> str:
    return ascii(name.replace(" ", "."))[1:-1][:120]


def _pairs(items: list) -> dict:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


def _key(value: object) -> object:
    match value:
        case None | str() | bytes() | Global() | Stub():  # stubs are told apart by what they are, not what they hold
            return value
        case int() if abs(value) < LARGEST_KEY:
            return value
        case tuple() if len(value) <= LONGEST_KEY and all(isinstance(part, str | bool | None) for part in value):
            return value
        case _:
            raise TypeError("a key that is neither a text nor a small number")
