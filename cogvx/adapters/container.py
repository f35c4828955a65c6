"""The safetensors container: one byte string for one content, and a header read with suspicion.

The library that writes safetensors orders metadata by chance; here the order is fixed, so that the
same adapter is the same bytes. Reading a header needs no torch, and believes no length it is told.

Source: the safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 16 << 20  # an adapter of 42 layers has 40 KB
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor without its numbers; `dtype` is safetensors' own name, such as F32."""

    dtype: str
    shape: tuple[int, ...]


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

    Raises:
        IntegrityError: There is no such file, or its header does not describe its bytes.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise IntegrityError(f"{path} is not a safetensors file, or it was cut short")
            header = json.loads(file.read(length))
        return _checked(header, size - _LENGTH_BYTES - length)
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a safetensors file: {error}") from error


def _checked(header: dict[str, Any], body_bytes: int) -> Header:
    metadata = header.pop("__metadata__", None) or {}
    tensors, used = {}, 0
    for name, entry in header.items():
        info = TensorInfo(str(entry["dtype"]), tuple(int(extent) for extent in entry["shape"]))
        begin, end = entry["data_offsets"]
        expected = math.prod(info.shape) * _DTYPE_BYTES.get(info.dtype, end - begin)
        if not 0 <= begin <= end <= body_bytes or end - begin != expected:
            raise ValueError(f"{name} does not fit into the file")
        tensors[name] = info
        used += end - begin
    if used != body_bytes:
        raise ValueError(f"tensors take {used} bytes of {body_bytes}")
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()})
