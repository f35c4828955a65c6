"""The safetensors container: one byte string for one content, and a header read with suspicion.

The library that writes safetensors orders metadata by chance; here the order is fixed, so that the
same adapter is the same bytes. Reading a header needs no torch, and believes no length it is told.

Source: the safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.
"""

import json
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 16 << 20  # an adapter of 42 layers has 40 KB
_MAX_TENSORS = 20_000  # all linear layers of 42 blocks have 700
_MAX_NAME = 200  # names are shown in messages, so they are short and printable
_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}

REAL_NUMBERS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Types that an adapter's matrices may have."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor without its numbers; `dtype` is safetensors' own name, such as F32."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """How much of the file it takes.

        Raises:
            IntegrityError: The type is not one of the format's.
        """
        if self.dtype not in _DTYPE_BYTES:
            raise IntegrityError(f"numbers of type {self.dtype} are not known")
        return math.prod(self.shape) * _DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def with_metadata(packed: bytes, metadata: Mapping[str, str]) -> bytes:
    """Give packed tensors their metadata, in an order that depends on nothing but the content."""
    length = int.from_bytes(packed[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    header = json.loads(packed[_LENGTH_BYTES:start])
    text = canonical_json({**header, "__metadata__": dict(metadata)})
    text += b" " * (-len(text) % _LENGTH_BYTES)  # the format aligns the tensors to 8 bytes
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + packed[start:]


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, which may come from anywhere.

    It is at least as strict as the library, so that nothing is said of a file that the library
    would read otherwise: names and metadata once, tensors one after the other without gaps.

    Raises:
        IntegrityError: There is no such file, or its header does not describe its bytes.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for its writer
            raise IntegrityError(f"{path} is not a file")
        size = status.st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise IntegrityError(f"{path} is not a safetensors file, or it was cut short")
            header = json.loads(file.read(length), object_pairs_hook=_once)
        return _checked(header, size - _LENGTH_BYTES - length)
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a safetensors file: {_reason(error)}") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name that stands there twice, readers take one or the other."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in its header twice")
    return found


def _checked(header: dict[str, Any], body_bytes: int) -> Header:
    metadata = header.pop("__metadata__", None) or {}
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata is not text")
    if len(header) > _MAX_TENSORS:
        raise ValueError(f"it holds {len(header)} tensors, and nothing here has {_MAX_TENSORS}")
    tensors, spans = {}, []
    for name, entry in header.items():
        if len(name) > _MAX_NAME or not name.isprintable():
            raise ValueError("a tensor's name is too long or not printable")
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if dtype not in _DTYPE_BYTES:
            raise ValueError(f"{name} is of a type that is not known")
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"{name} has a shape or a place that is no whole number")
        if end - begin != math.prod(shape) * _DTYPE_BYTES[dtype] or end > body_bytes:
            raise ValueError(f"{name} does not fit into the file")
        tensors[name] = TensorInfo(dtype, shape)
        spans.append((begin, end))
    _require_filled(sorted(spans), body_bytes)
    return Header(tensors, dict(metadata))


def _require_filled(spans: Sequence[tuple[int, int]], body_bytes: int) -> None:
    reached = 0
    for begin, end in spans:
        if begin != reached:
            raise ValueError("its tensors overlap or leave gaps")
        reached = end
    if reached != body_bytes:
        raise ValueError(f"tensors take {reached} bytes of {body_bytes}")


def _reason(error: Exception) -> str:
    """What is wrong, as a part of a sentence; Python's own words for a missing field are none."""
    if isinstance(error, KeyError | TypeError | AttributeError):
        return "its header is of another form"
    if isinstance(error, RecursionError):
        return "its header is nested too deep"
    return str(error)
