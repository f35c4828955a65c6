"""What makes a record's bytes checkable, without torch: its label and the checksum in it.

A record is a safetensors file of one tensor: eight bytes of length, a header of JSON, the elements.
The label is one metadata entry of the header. The checksum covers the label and the elements, and
what the header itself says of them.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError

LABEL = "record"
_LENGTH_BYTES = 8
# What safetensors calls the dtypes that we encode in, and how many bytes an element has.
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
}


def verify(data: bytes, name: str) -> None:
    """Make sure that bytes are the record called `name`.

    Raises:
        IntegrityError: The bytes are torn, altered, or another record's.
    """
    try:
        fault = _fault(data, name)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"record {name} is damaged: {error}") from error
    if fault:
        raise IntegrityError(f"record {name} is damaged: {fault}")


def read_label(data: bytes) -> dict[str, Any]:
    """What a verified record says of itself: key, axes, shape, dtype, what it was made from."""
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    label: dict[str, Any] = json.loads(json.loads(data[_LENGTH_BYTES:start])["__metadata__"][LABEL])
    return label


def checksum(
    label: dict[str, object], tensor: str, *, dtype: str, shape: Sequence[int], elements: memoryview
) -> str:
    """Sha256 of the label without its checksum, the header's own facts, and the elements.

    Args:
        label: Says what the record is and what it was made from.
        tensor: The tensor's name, which ends in its axes.
        dtype: As torch calls it, without its prefix.
        shape: Of the tensor.
        elements: Their bytes, little-endian, as they lie in the file.
    """
    hasher = hashlib.sha256(canonical_json(label))
    hasher.update(f"{tensor} torch.{dtype} {tuple(shape)}".encode())
    hasher.update(elements)
    return hasher.hexdigest()


def _fault(data: bytes, name: str) -> str:
    """What is wrong with a record, or nothing; header entries that are not there raise."""
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if start > len(data):
        return "it ends inside its header"
    header = json.loads(data[_LENGTH_BYTES:start])
    label = json.loads(header.pop("__metadata__")[LABEL])
    ((tensor, entry),) = header.items()
    dtype, width = _DTYPES[entry["dtype"]]
    size = width * math.prod(entry["shape"])
    if entry["data_offsets"] != [0, size] or len(data) != start + size:
        return f"it holds {len(data) - start} bytes of elements and should hold {size}"
    promised = label.pop("sha256", None)
    if label.get("key") != name:
        return f"it says that it is {label.get('key')!s:.80}"
    elements = memoryview(data)[start:]
    came = checksum(label, tensor, dtype=dtype, shape=entry["shape"], elements=elements)
    return "" if came == promised else "its checksum does not match"
