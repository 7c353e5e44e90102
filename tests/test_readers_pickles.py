import builtins
import collections
import io
import os
import pickle
import pickletools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.proofs.torch_files import Call, Name, dumps
from wsrl.checkpoint import CheckpointError
from wsrl.readers.allowlist import ALLOWED, PickledArray
from wsrl.readers.pickles import Global, Instance, Stub, read_pickle

FILE = Path("file.pt")


def read(data, size=None, persistent=None):
    return read_pickle(io.BytesIO(data), ALLOWED, FILE, len(data) if size is None else size, persistent)


KEYS = st.none() | st.booleans() | st.integers(-(2**59), 2**59) | st.text() | st.binary()
PLAIN = st.recursive(
    KEYS | st.floats(allow_nan=False) | st.integers(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner) | st.sets(KEYS) | st.frozensets(KEYS)
    ),
    max_leaves=20,
)


@given(PLAIN, st.integers(0, 5))
def test_plain_values_come_back(value, protocol):
    def as_lists(part):
        """Before protocol 4 sets are calls, which come back as lists."""
        match part:
            case set() | frozenset() if protocol < 4:
                return sorted(map(repr, part))
            case dict():
                return {key: as_lists(inner) for key, inner in part.items()}
            case list() | tuple():
                return type(part)(map(as_lists, part))
        return part

    def sorted_lists(found, part):
        match part:
            case set() | frozenset() if protocol < 4:
                return sorted(map(repr, found))
            case dict():
                return {key: sorted_lists(found[key], part[key]) for key in part}
            case list() | tuple():
                return type(part)(map(sorted_lists, found, part))
        return found

    found = read(pickle.dumps(value, protocol))
    assert sorted_lists(found, value) == as_lists(value)


def test_python_implementation_of_all_opcodes():
    for protocol in range(6):
        value = {"a": [1, 2.5, "x", b"y", None, True, 2**70], "b": (1,), "c": bytearray(b"z")}
        assert read(pickletools.optimize(pickle.dumps(value, protocol))) == value


def test_values_that_are_shared_stay_shared():
    shared = [1]
    first, second = read(pickle.dumps((shared, shared)))
    assert first is second


def test_containers_that_contain_themselves():
    cycle: list = []
    cycle.append({"self": cycle})
    found = read(pickle.dumps(cycle))
    assert isinstance(found, list) and found[0]["self"] is found


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "u1", ">f4", "b1"])
def test_numpy_arrays(protocol, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for value in (array, np.asfortranarray(array), array[:, 1], array[:0], np.array(array[1, 2])):
        found = read(pickle.dumps(value, protocol))
        assert isinstance(found, PickledArray)
        np.testing.assert_array_equal(found.array, value)
        assert found.array.dtype == value.dtype
    assert read(pickle.dumps(array[1, 2], protocol)) == array[1, 2]


def test_mappings_of_collections():
    assert read(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}
    assert read(pickle.dumps(collections.Counter("aab"))) == {"a": 2, "b": 1}
    assert read(pickle.dumps(collections.defaultdict(list, a=[1]))) == {"a": [1]}
    with_attribute = collections.OrderedDict(a=1)
    with_attribute._metadata = {"": {"version": 1}}  # as state_dict() has
    assert read(pickle.dumps(with_attribute)) == {"a": 1}


def test_settings_are_inert():
    found = read(dumps(Call(Name("argparse", "Namespace"), (), {"lr": 0.1})))
    assert isinstance(found, Instance) and found.state == [{"lr": 0.1}]


def test_names_that_nothing_calls_are_texts():
    assert read(dumps([Name("mypackage.models", "Net")])) == [Global("mypackage.models Net")]


class Marked:
    """Makes a pickle that would write a file if it were run."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


DANGEROUS = {
    "os.system": Name("os", "system"),
    "posix.system": Name("posix", "system"),
    "nt.system": Name("nt", "system"),
    "subprocess.Popen": Name("subprocess", "Popen"),
    "builtins.eval": Name("builtins", "eval"),
    "__builtin__.eval": Name("__builtin__", "eval"),
    "builtins.exec": Name("builtins", "exec"),
    "builtins.getattr": Name("builtins", "getattr"),
    "builtins.__import__": Name("builtins", "__import__"),
    "builtins.open": Name("builtins", "open"),
    "runpy.run_path": Name("runpy", "run_path"),
    "importlib.import_module": Name("importlib", "import_module"),
    "pickle.loads": Name("pickle", "loads"),
    "_pickle.loads": Name("_pickle", "loads"),
    "numpy.testing._private.utils.runstring": Name("numpy.testing._private.utils", "runstring"),
    "torch.hub.load": Name("torch.hub", "load"),
    "torch.load": Name("torch.serialization", "load"),
    "functools.reduce": Name("functools", "reduce"),
    "operator.attrgetter": Name("operator", "attrgetter"),
    "types.CodeType": Name("types", "CodeType"),
    "webbrowser.open": Name("webbrowser", "open"),
    "asyncio.subprocess": Name("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    "dotted": Name("builtins", "__import__.__call__"),
}


@pytest.mark.parametrize("name", DANGEROUS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_names_that_run_code_are_refused_at_sight(name, protocol):
    with pytest.raises(CheckpointError, match="which can run code; do not load"):
        read(dumps({"weight": 1, "hidden": DANGEROUS[name]}, protocol=protocol))


def test_nothing_is_run_imported_or_called(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    command = f"touch {marker}"
    payloads = [pickle.dumps(Marked(os.system, command), p) for p in range(6)]
    payloads += [pickle.dumps(Marked(eval, f"open({str(marker)!r}, 'w')"), p) for p in range(6)]
    imported = []
    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: imported.append(name) or original(name, *rest))
    for payload in payloads:
        with pytest.raises(CheckpointError):
            read(payload)
    unknown = read(dumps(Call(Name("antigravity", "fly"), (), {"__reduce__": Name("antigravity", "geohash")})))
    assert unknown.name == "antigravity fly"
    assert not marker.exists() and "antigravity" not in imported


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_not_known_is_a_stub(protocol):
    call = Call(Name("mypackage", "Net"), (1, "a"), {"b": 2})
    stub = read(dumps(call, protocol=protocol))
    assert isinstance(stub, Stub) and (stub.name, stub.arguments) == ("mypackage Net", (1, "a"))
    assert dict(stub.items()) == {0: 1, 1: "a", "b": 2}


T = b"cmypackage\nNet\n"
SPLIT = [
    b"(S'x'\nimypackage\nNet\n.",  # INST
    b"(" + T + b"S'x'\no.",  # OBJ
    T + b")\x81.",  # NEWOBJ
    T + b")}\x92.",  # NEWOBJ_EX
    T + b")}S'a'\nK\x01s\x92.",  # NEWOBJ_EX with a keyword
    T + b")R.",  # REDUCE
    T + b")R}S'build'\n" + T + b"sb.",  # BUILD of a stub, by the name of one of its methods
    T + b")RK\x01a.",  # APPEND to a stub
    T + b")RS'k'\nK\x01s.",  # SETITEM of a stub
    T + b")R(K\x01\x90.",  # ADDITEMS to a stub
    b"\x8c\x09mypackage\x8c\x03Net\x93)R.",  # STACK_GLOBAL
    b"\x8c\x09mypackage\x94\x8c\x03Net\x940h\x00h\x01\x93)R.",  # the same by way of the memo
    b"ctorch\n_utils._rebuild_tensor_v2\n)R.",  # a dotted name that is not the allowed one
    b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R.",
    b"ccopyreg\n_reconstructor\n(" + T + b"cbuiltins\nobject\nNtR.",
    b"ccopyreg\n__newobj__\n(" + T + b"tR.",
    b"cfunctools\npartial\n(" + T + b"tR.",
]


@pytest.mark.parametrize("data", SPLIT, ids=range(len(SPLIT)))
def test_every_way_of_calling_makes_a_stub(data, monkeypatch):
    imported = []
    original = builtins.__import__
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", lambda name, *rest: imported.append(name) or original(name, *rest))
        stub = read(data)
    assert isinstance(stub, Stub) and "mypackage" not in imported


REFUSED = {
    "a class is changed": T + b"}b.",
    "a function of settings": b"cfunctools\npartial\n(cos\nsystem\nS'true'\ntR.",
    "a class that is made elsewhere": b"ccopyreg\n_reconstructor\n(cos\nsystem\ncbuiltins\nobject\nNtR.",
    "the state of a stub": T + b")R}S'a'\ncbuiltins\neval\nsb.",
    "a stub is called": T + b")R)R.",
    "a stub of settings is called": b"cfunctools\npartial\n(" + T + b"tR)R.",
    "a tensor's function with keywords": b"ctorch._utils\n_rebuild_tensor_v2\n)}S'a'\nK\x01s\x92.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_goes_beyond_stubs_is_refused(name):
    with pytest.raises(CheckpointError, match=r"changes |can run code|is broken"):
        read(REFUSED[name])


BROKEN = {
    "nothing": b"",
    "no stop": b"N",
    "stop alone": b".",
    "no opcode": b"\xff.",
    "extension 1": b"\x82\x01.",
    "extension 2": b"\x83\x01\x00.",
    "extension 4": b"\x84\x01\x00\x00\x00.",
    "persistent id in text": b"Pos\n.",
    "persistent id": b"NQ.",
    "buffer": b"\x97.",
    "read-only buffer": b"N\x98.",
    "protocol 255": b"\x80\xff)R.",
    "global of numbers": b"K\x01K\x02\x93.",
    "global of a list": b"]]\x93.",
    "call of a text": b"S'x'\n)R.",
    "call of a container": b"])R.",
    "call without a tuple": b"ccollections\nOrderedDict\n]R.",
    "call with keywords": b"c__torch__\nNet\n)}S'a'\nK\x01s\x92.",
    "memo that is missing": b"h\x07.",
    "memo 2^31 that is missing": b"j\xff\xff\xff\x7f.",
    "memo of a negative number": b"g-1\n.",
    "mark that is missing": b"t.",
    "marks that are missing": b"((1111.",
    "stack that is empty": b"0.",
    "tuple of an empty stack": b"N\x87.",
    "key of a list": b"}]Ns.",
    "key of a tuple of numbers": b"}K\x01\x85Ns.",
    "key of a number that is too large": b"}\x8a\x08" + bytes(7) + b"\x10Ns.",
    "key of a float": b"}G" + bytes(8) + b"Ns.",
    "item of a list": b"]K\x00Ns.",
    "odd items": b"}(Nu.",
    "append to a tuple": b")Na.",
    "add to a list": b"](N\x90.",
    "state of a list": b"]}b.",
    "state of a number": b"K\x01}b.",
    "text beyond the end": b"X\xff\xff\xff\x7fa.",
    "text of 2^63": b"\x8d" + b"\xff" * 7 + b"\x7fa.",
    "bytes of 2^64": b"\x8e" + b"\xff" * 8 + b"a.",
    "bytearray of 2^62": b"\x96" + bytes(7) + b"\x40a.",
    "number beyond the end": b"\x8b\xff\xff\xff\x7f\x01.",
    "negative length": b"T\xff\xff\xff\xffa.",
    "long number in text": b"L" + b"9" * 5000 + b"L\n.",
    "no number": b"Ix\n.",
    "no utf-8": b"X\x01\x00\x00\x00\xff.",
    "frame beyond the end": b"\x80\x04\x95" + b"\xff" * 8,
    "no text": b"Sx\n.",
    "size that is no tuple": b"ctorch\nSize\nN\x85R.",
    "tensor without a storage": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89}tR.",
    "tensor without arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "dtype of objects": b"cnumpy\ndtype\nS'O8'\n\x85R.",
    "dtype of records": b"cnumpy\ndtype\n]\x85R.",
    "array of objects": b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)cnumpy\ndtype\nS'O'\n\x85R\x89]tb.",
    "bytes of an unknown encoding": b"c_codecs\nencode\nS'a'\nS'zip'\n\x86R.",
    "parameter of nothing": b"ctorch._utils\n_rebuild_parameter\nN\x85R.",
    "tensor of an unknown function": b"ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nCounter\nN)NtR.",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickles(name):
    with pytest.raises(CheckpointError, match=r"^file\.pt: [^\n]+; [^\n]+$"):
        read(BROKEN[name])


def _twice_called(function, arguments):
    return function + b"\x940" + arguments + b"\x940" + b"h\x00h\x01R" * 1000 + b"."


BOMBS = {
    "lists": b"]" * 25_000 + b".",
    "dictionaries": b"(" + b"}" * 25_000 + b"t.",
    "sets": b"\x8f" * 25_000 + b".",
    "marks": b"(" * 25_000 + b".",
    "memo": b"N" + b"\x94" * 25_000 + b".",
    "copies": b"N" + b"2" * 25_000 + b".",
    "nesting": b"]" * 2_000 + b"a" * 1_999 + b".",
    "copies of bytes": _twice_called(b"c_codecs\nencode\n", b"X\x00\x00\x01\x00" + b"a" * 65536 + b"S'latin1'\n\x86"),
    "copies of lists": _twice_called(b"c__builtin__\nset\n", b"](" + b"N" * 2_000 + b"e\x85"),
    "copies of arguments": _twice_called(b"c__torch__\nNet\n", b"(" + b"N" * 2_000 + b"t"),
    "copies of names": b"X\x00\x00\x01\x00" + b"a" * 65536 + b"\x940" + b"h\x00h\x00\x93" * 1000 + b".",
    "tuples": b")" + b"\x85" * 4_000 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_memory_is_bounded(name, monkeypatch):
    margin = 1 << 18
    monkeypatch.setattr("wsrl.readers.mapped.MARGIN", margin)
    monkeypatch.setattr("wsrl.readers.budget.DESCRIPTION", 0)
    data = BOMBS[name]
    stream = io.BytesIO(data)
    tracemalloc.start()
    try:
        read_pickle(stream, ALLOWED, FILE, len(data))
    except CheckpointError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2 * len(data) + 4 * margin


def test_laughter():
    """A billion entries in a few bytes are not walked through."""
    data = b"]N" + b"a" + b"".join(b"q\x00" + b"]h\x00ah\x00a" for _ in range(60)) + b"."
    assert isinstance(read(data), list)
    tuples = b"NN\x86" + b"2\x86" * 60
    assert isinstance(read(tuples + b"."), tuple)
    with pytest.raises(CheckpointError):
        read(b"}" + tuples + b"Ns.")  # whose hash would take for ever


def test_persistent_ids_are_given_to_the_caller():
    assert read(b"S'a'\nQ.", persistent=lambda identity: [identity]) == [["a"]][0]
    with pytest.raises(CheckpointError, match="unknown"):
        read(b"S'a'\nQ.", persistent=lambda identity: (_ for _ in ()).throw(ValueError("unknown")))


def test_one_pickle_after_the_other():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps([2]) + b"rest")
    assert read_pickle(stream, {}, FILE, 100) == 1
    assert read_pickle(stream, {}, FILE, 100) == [2]
    assert stream.read() == b"rest"
