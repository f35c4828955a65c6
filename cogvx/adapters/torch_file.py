"""Tensors of a checkpoint that torch.save wrote, from a file that may come from anywhere.

The file is judged before torch opens it: a plain zip without compression, whose pickle builds
nothing but tensors. Then torch maps it, weights only, so that of a checkpoint of 26 GB only the
tensors that are asked for are ever read.

Source: what `torch.save` writes since torch 1.6.
"""

import struct
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - the name of torch's refusal only
from typing import Any, Self

import torch
from torch import Tensor

from cogvx.adapters.container import TensorInfo
from cogvx.adapters.pickled import outline
from cogvx.adapters.pickled_values import NOTHING, StoredTensor
from cogvx.errors import IntegrityError

ZIP_MAGIC = b"PK\x03\x04"

_MAX_DIRECTORY = 4 << 20  # of the zip; a checkpoint of 3,000 tensors has 0.4 MB
_MAX_PICKLE = 16 << 20
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_SIZE, _LOCATOR_SIZE, _END_64_SIZE = 22, 20, 56
_MAX_DEPTH = 4
_MAX_NAME = 400

# What torch's restricted loading raises for what it does not take, or does not expect.
_REFUSALS = (
    *(UnpicklingError, RuntimeError, ValueError, TypeError, EOFError, struct.error),
    *(AssertionError, AttributeError, LookupError, OverflowError),
)

Place = tuple[str, ...]
"""Keys that lead to a dictionary of tensors: ("module",) in what DeepSpeed writes."""


@dataclass(frozen=True)
class TorchTensors:
    """Tensors of one dictionary of a checkpoint, without their numbers until they are read."""

    infos: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    loaded: Mapping[str, Tensor]

    def read(self, name: str) -> Tensor:
        """One tensor, as it was stored; its numbers come from the disk now."""
        return self.loaded[name]


def torch_dictionaries(path: Path) -> dict[Place, dict[str, TensorInfo]]:
    """Every dictionary of tensors in a checkpoint, by where it stands; no number is read.

    Raises:
        IntegrityError: The file is no such checkpoint, is damaged, or holds more than weights.
    """
    try:
        with zipfile.ZipFile(_bounded(path)) as archive:
            found = _outline(archive, path.stat().st_size)
        return {place: _infos(holder) for place, holder in _holders(found)}
    except IntegrityError as error:
        raise IntegrityError(f"{path} is refused: {error}") from error
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError) as error:
        raise IntegrityError(f"{path} is damaged: {error}") from error


@contextmanager
def open_torch(path: Path, place: Place, infos: Mapping[str, TensorInfo]) -> Iterator[TorchTensors]:
    """Open one dictionary of a checkpoint that `torch_dictionaries` has judged.

    Raises:
        IntegrityError: torch cannot load it.
    """
    try:
        with torch.serialization.safe_globals([_stand_in(name) for name in NOTHING]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about its own storages
                loaded = torch.load(  # noqa: TID251 - weights only, mapped, and judged before
                    path, map_location="cpu", weights_only=True, mmap=True
                )
            for key in place:
                loaded = loaded[key]
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    except _REFUSALS as error:
        raise IntegrityError(f"{path} cannot be loaded: {_first_line(error)}") from error
    yield TorchTensors(infos, {}, loaded)


def _first_line(error: Exception) -> str:
    """The reason alone; advice on how to trust a file, which torch goes on with, helps nobody."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:_MAX_NAME]


def _stand_in(name: str) -> type:
    """A class of that name that takes anything and keeps nothing."""
    module, _, short = name.rpartition(".")
    return type(short, (_Nothing,), {"__module__": module, "__qualname__": short})


class _Nothing:
    def __new__(cls, *_arguments: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        """Take anything."""

    def __setstate__(self, _state: object) -> None:
        """Keep nothing."""


def _bounded(path: Path) -> Path:
    """The path, once its directory is known to be small: `zipfile` reads it at one go."""
    size = path.stat().st_size
    length = min(size, _END_SIZE + _LOCATOR_SIZE + _END_64_SIZE)
    with path.open("rb") as file:
        file.seek(size - length)
        tail = file.read(length)
    end = tail[-_END_SIZE:]
    if len(end) < _END_SIZE or not end.startswith(_END):
        raise IntegrityError("it is no zip, or it was cut short")
    directory, start, comment = struct.unpack("<IIH", end[12:])
    reached = size - _END_SIZE
    locator = tail[-_END_SIZE - _LOCATOR_SIZE : -_END_SIZE]
    if locator.startswith(_LOCATOR_64):
        (there,) = struct.unpack("<Q", locator[8:16])
        directory, start = struct.unpack("<QQ", tail[40:56])
        reached = size - length
        if not tail.startswith(_END_64) or there != reached:
            raise IntegrityError("its zip's end is not where it says")
    if directory > _MAX_DIRECTORY:
        raise IntegrityError("its zip's directory is larger than a checkpoint's")
    if comment or start + directory != reached:  # readers differ in what they make of a gap
        raise IntegrityError("its zip's directory is not where it says")
    return path


def _outline(archive: zipfile.ZipFile, size: int) -> Any:
    members = archive.infolist()
    names = {member.filename: member for member in members}
    if len(names) != len(members):
        raise IntegrityError("its zip holds a member twice")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise IntegrityError("its zip is compressed or locked, which torch never writes")
        if member.file_size != member.compress_size:
            raise IntegrityError("its zip lies about its members' lengths")
    if sum(member.file_size for member in members) > size:
        raise IntegrityError("its zip claims more bytes than it has")
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise IntegrityError("it is no checkpoint of torch: no data.pkl stands in it")
    if names[pickles[0]].file_size > _MAX_PICKLE:
        raise IntegrityError("its pickle is longer than a checkpoint's")
    top = pickles[0].removesuffix("data.pkl")
    order = names.get(f"{top}byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order) != b"little"):
        raise IntegrityError("its numbers are in another byte order")

    def sizes(key: str) -> int | None:
        member = names.get(f"{top}data/{key}")
        return None if member is None else member.file_size

    return outline(archive.read(pickles[0]), sizes)


def _holders(root: Any) -> Iterator[tuple[Place, dict[Any, Any]]]:
    """Dictionaries that hold tensors, the outer ones first, each once."""
    queue: deque[tuple[Place, Any]] = deque([((), root)])
    seen: set[int] = set()
    while queue:
        place, value = queue.popleft()
        if not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        tensors = [name for name, item in value.items() if isinstance(item, StoredTensor)]
        if any(isinstance(name, str) and not _is_plain(name) for name in tensors):
            raise IntegrityError("it has a name that is too long or not printable")
        if tensors:
            yield place, value
        if len(place) < _MAX_DEPTH:
            queue.extend(
                ((*place, name), item) for name, item in value.items() if isinstance(name, str)
            )


def _infos(holder: Mapping[Any, Any]) -> dict[str, TensorInfo]:
    """A dictionary's tensors; one that repeats its numbers could be as large as it likes."""
    return {
        name: TensorInfo(value.dtype, value.shape)
        for name, value in holder.items()
        if isinstance(name, str) and isinstance(value, StoredTensor) and not value.expanded
    }


def _is_plain(name: str) -> bool:
    """Names are shown in messages."""
    return len(name) <= _MAX_NAME and name.isprintable()
