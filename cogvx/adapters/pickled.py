"""What a torch checkpoint's pickle would build, told by reading it: nothing is built, called, run.

A pickle is a program. Here its steps are followed with inert values: what it would call becomes a
note, and only tensors keep their shape and the place of their numbers. So a file is judged before
torch is let near it, and the memory that this takes is bounded by the length of the program.

torch's own restricted loading is safe against code, but a file can still make it allocate without
end (`bytearray(10**12)`), and it refuses the state of NumPy's generator that SAT puts into every
checkpoint. Both are settled here.

Source: the opcodes of Python's `pickletools`; what `torch.save` writes, which is protocol 2.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cogvx.errors import IntegrityError

_MAX_STEPS = 500_000  # a checkpoint of CogVideoX with its captions' encoder takes 100,000
_MAX_RANK = 8

# Storages of torch, by safetensors' names of what they hold, and bytes of a number.
_STORAGES = {
    "torch.DoubleStorage": ("F64", 8),
    "torch.FloatStorage": ("F32", 4),
    "torch.HalfStorage": ("F16", 2),
    "torch.BFloat16Storage": ("BF16", 2),
    "torch.LongStorage": ("I64", 8),
    "torch.IntStorage": ("I32", 4),
    "torch.ShortStorage": ("I16", 2),
    "torch.CharStorage": ("I8", 1),
    "torch.ByteStorage": ("U8", 1),
    "torch.BoolStorage": ("BOOL", 1),
}

# Named in settings that stand beside the tensors, never called.
_DTYPES = frozenset(
    f"torch.{name}"
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
)

NOTHING = (
    "argparse.Namespace",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.dictconfig.DictConfig",
)
"""What trainers write beside the tensors, and nobody needs: it is read as nothing at all."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor without its numbers; `dtype` is safetensors' name for it.

    `expanded` means that numbers are used again: a shape may then be as large as one likes.
    """

    dtype: str
    shape: tuple[int, ...]
    expanded: bool


@dataclass(frozen=True)
class _Global:
    """Something that the pickle names, as module.name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    numbers: int


class _Inert:
    """What nobody needs to know."""


class _Mark:
    """Where a run of items begins."""


Sizes = Callable[[str], int | None]
"""Bytes that the zip holds for a storage; None when it holds none."""


def outline(program: bytes, sizes: Sizes) -> Any:
    """What a pickle would build: dicts, lists and plain values, `StoredTensor`s, inert objects.

    Args:
        program: The bytes of `data.pkl`.
        sizes: Tells how many bytes there are for a storage, for the pickle may lie.

    Raises:
        IntegrityError: It would call what no checkpoint needs, or is damaged.
    """
    machine = _Machine(sizes)
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if steps > _MAX_STEPS:
                raise IntegrityError("its pickle has more steps than a checkpoint needs")
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise IntegrityError("its pickle is damaged") from error


class _Machine:
    """The stack and the memory of a pickle."""

    stack: list[Any]

    def __init__(self, sizes: Sizes) -> None:
        self.stack = []
        self._memo: dict[int, Any] = {}
        self._sizes = sizes

    def step(self, name: str, argument: Any) -> None:
        """Follow one opcode; those that `torch.save` never writes are refused."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _MAKERS:
            self.stack.append(_MAKERS[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name in _TUPLES:
            self.stack.append(self._last(_TUPLES[name]))
        elif name in _STEPS:
            _STEPS[name](self)
        elif name == "GLOBAL":
            self.stack.append(_known(str(argument).replace(" ", ".", 1)))
        elif name != "PROTO" or argument != 2:
            raise IntegrityError(f"its pickle uses {name}, which torch.save does not write")

    def tuple_(self) -> None:
        """Everything since the mark becomes a tuple."""
        self.stack.append(tuple(self._since_mark()))

    def append(self) -> None:
        """One item goes to a list."""
        item = self.stack.pop()
        self._target(list).append(item)

    def appends(self) -> None:
        """Several items go to a list."""
        items = self._since_mark()
        self._target(list).extend(items)

    def set_item(self) -> None:
        """One entry goes to a dictionary."""
        key, value = self._last(2)
        self._target(dict)[_plain_key(key)] = value

    def set_items(self) -> None:
        """Several entries go to a dictionary."""
        items = self._since_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._target(dict)[_plain_key(key)] = value

    def call(self) -> None:
        """A call, or a new object: of tensors the outline is kept, of all else nothing."""
        function, arguments = self._last(2)
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise TypeError("not a call")
        self.stack.append(_called(function.name, arguments))

    def build(self) -> None:
        """Attributes for an object, which has none here; a tensor's could be pointed elsewhere."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], dict | _Inert):
            raise TypeError("attributes of a plain value")
        if isinstance(self.stack[-1], dict) and not isinstance(state, dict):
            raise TypeError("attributes that are none")

    def storage(self) -> None:
        """A reference to a member of the zip, which must be as long as it says."""
        kind, of, key, _, numbers = self.stack.pop()
        dtype, size = _STORAGES[of.name]
        if kind != "storage" or type(key) is not str or type(numbers) is not int or numbers < 0:
            raise ValueError("not a storage")
        if self._sizes(key) != numbers * size:
            raise IntegrityError("its tensors are not of the lengths that its pickle says")
        self.stack.append(_Storage(dtype, numbers))

    def _last(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise ValueError("nothing there")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        items = []
        while not isinstance(item := self.stack.pop(), _Mark):
            items.append(item)
        return items[::-1]

    def _target(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError("another kind")
        return self.stack[-1]


_VALUES = {
    *("BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"),
    *("BINUNICODE", "SHORT_BINSTRING"),
}
_MAKERS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": _Inert,
    "MARK": _Mark,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[_Machine], None]] = {
    "TUPLE": _Machine.tuple_,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}


def _plain_key(key: Any) -> Any:
    """Keys that can be compared in one step: hashing a tuple a million deep ends the process."""
    if key is None or type(key) in (str, int, float, bool, bytes):
        return key
    raise ValueError("a key that is no plain value")


def _known(name: str) -> _Global:
    if name in _STORAGES or name in _CALLS or name in NOTHING or name in _DTYPES:
        return _Global(name)
    shown = name if name.isprintable() and len(name) <= 100 else "something"
    raise IntegrityError(
        f"its pickle names {shown}, which weights do not need; nothing of it was run"
    )


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    if name in NOTHING:
        return _Inert()
    return _CALLS[name](*arguments)


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *_others: Any
) -> StoredTensor | _Inert:
    """A view of a storage, which must lie inside it."""
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride) or len(shape) > _MAX_RANK:
        raise ValueError("not a tensor")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("not a shape")
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.numbers:
        raise IntegrityError("its tensors reach beyond their numbers")
    return StoredTensor(storage.dtype, tuple(shape), math.prod(shape) > storage.numbers)


def _parameter(tensor: Any, *_others: Any) -> Any:
    if not isinstance(tensor, StoredTensor):
        raise TypeError("not a tensor")
    return tensor


def _dictionary(*items: Any) -> dict[Any, Any]:
    if items:
        raise ValueError("items that were given at once")
    return {}


def _bytes(text: Any, coding: Any) -> _Inert:
    """Bytes are written as text; other codings than this one can grow without end."""
    if type(text) is not str or coding != "latin1":
        raise ValueError("not bytes")
    return _Inert()


def _plain_items(*arguments: Any) -> _Inert:
    (items,) = arguments
    for item in items:
        _plain_key(item)
    return _Inert()


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _plain_items,
    "collections.OrderedDict": _dictionary,
    "builtins.set": _plain_items,
    "__builtin__.set": _plain_items,
    "_codecs.encode": _bytes,
}
