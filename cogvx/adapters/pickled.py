"""What a torch checkpoint's pickle would build, told by reading it: nothing is built, called, run.

A pickle is a program. Here its steps are followed with inert values: what it would call becomes a
note, and only tensors keep their shape and the place of their numbers. So a file is judged before
torch is let near it, and the memory that this takes is bounded by the length of the program.

torch's own restricted loading is safe against code, but a file can still make it allocate without
end (`bytearray(10**12)`), and it refuses the state of NumPy's generator that SAT puts into every
checkpoint. Both are settled here.

Source: the opcodes of Python's `pickletools`; what `torch.save` writes, which is protocol 2.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from cogvx.adapters.pickled_values import (
    Inert,
    Named,
    Sizes,
    Storage,
    called,
    named,
    plain_key,
    stored,
)
from cogvx.errors import IntegrityError

_MAX_STEPS = 500_000  # a checkpoint of CogVideoX with its captions' encoder takes 100,000


class _Mark:
    """Where a run of items begins."""


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
        self._storages: dict[str, Storage] = {}
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
            self.stack.append(named(str(argument).replace(" ", ".", 1)))
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
        self._target(dict)[plain_key(key)] = value

    def set_items(self) -> None:
        """Several entries go to a dictionary."""
        items = self._since_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._target(dict)[plain_key(key)] = value

    def call(self) -> None:
        """A call, or a new object: of tensors the outline is kept, of all else nothing."""
        function, arguments = self._last(2)
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise TypeError("not a call")
        self.stack.append(called(function.name, arguments))

    def build(self) -> None:
        """Attributes for an object, which has none here; a tensor's could be pointed elsewhere."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], dict | Inert):
            raise TypeError("attributes of a plain value")
        if isinstance(self.stack[-1], dict) and not isinstance(state, dict):
            raise TypeError("attributes that are none")

    def storage(self) -> None:
        """A reference to a member of the zip, which must be as long as it says."""
        storage = stored(self.stack.pop(), self._sizes)
        if self._storages.setdefault(storage.key, storage) != storage:
            raise ValueError("one storage of two kinds")  # torch keeps the first
        self.stack.append(storage)

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
    "EMPTY_SET": Inert,
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
