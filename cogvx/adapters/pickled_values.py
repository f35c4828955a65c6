"""What the names in a checkpoint's pickle mean: tensors, containers, and things of no interest.

A name that weights do not need is refused where it stands, whether the pickle calls it or not.

Source: `torch._utils` for what rebuilds a tensor, and of what; storages of torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cogvx.errors import IntegrityError

_MAX_AXES = 8
_SHOWN = 100

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
class Named:
    """Something that the pickle names, as module.name."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A member of the zip that holds so many numbers."""

    dtype: str
    key: str
    numbers: int


class Inert:
    """What nobody needs to know."""


Sizes = Callable[[str], int | None]
"""Bytes that the zip holds for a storage; None when it holds none."""


def stored(reference: Any, sizes: Sizes) -> Storage:
    """A reference to a member of the zip, which must be as long as the pickle says.

    Raises:
        IntegrityError: It is not.
        ValueError: It is no such reference, as are all errors of one that cannot be read.
    """
    kind, of, key, _, numbers = reference
    dtype, size = _STORAGES[of.name]
    if kind != "storage" or type(key) is not str or type(numbers) is not int or numbers < 0:
        raise ValueError("not a storage")
    if sizes(key) != numbers * size:
        raise IntegrityError("its tensors are not of the lengths that its pickle says")
    return Storage(dtype, key, numbers)


def plain_key(key: Any) -> Any:
    """Keys that can be compared in one step: hashing a tuple a million deep ends the process."""
    if key is None or type(key) in (str, int, float, bool, bytes):
        return key
    raise ValueError("a key that is no plain value")


def named(name: str) -> Named:
    """Something that weights need, or that is known to be no matter.

    Raises:
        IntegrityError: It is neither.
    """
    if name in _STORAGES or name in _CALLS or name in NOTHING or name in _DTYPES:
        return Named(name)
    shown = name if name.isprintable() and len(name) <= _SHOWN else "something"
    raise IntegrityError(
        f"its pickle names {shown}, which weights do not need; nothing of it was run"
    )


def called(name: str, arguments: tuple[Any, ...]) -> Any:
    """What a call would give, as far as it matters; nothing is called.

    Raises:
        ValueError: Those are no arguments for it, as are all errors of such a call.
    """
    if name in NOTHING:
        return Inert()
    return _CALLS[name](*arguments)


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *_others: Any
) -> StoredTensor | Inert:
    """A view of a storage, which must lie inside it."""
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or len(shape) != len(stride) or len(shape) > _MAX_AXES:
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


def _bytes(text: Any, coding: Any) -> Inert:
    """Bytes are written as text; other codings than this one can grow without end."""
    if type(text) is not str or coding != "latin1":
        raise ValueError("not bytes")
    return Inert()


def _plain_items(*arguments: Any) -> Inert:
    (items,) = arguments
    for item in items:
        plain_key(item)
    return Inert()


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _plain_items,
    "collections.OrderedDict": _dictionary,
    "builtins.set": _plain_items,
    "__builtin__.set": _plain_items,
    "_codecs.encode": _bytes,
}
