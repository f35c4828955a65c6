"""Bytes from an S3 server, each answer held to what was promised before anyone uses it.

A read asks for a range, because the answer then names the size of the whole object: most objects
come in one request, and of large ones the other ranges follow in parallel, all of the same version.
What came is compared with the checksum that our own uploads leave in an object's metadata, which
every server keeps; of objects that others put there, with the MD5 that an ETag usually is.
"""

import hashlib
import os
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import (
    ChecksumError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

Result = TypeVar("Result")

CHECKSUM = "crc32"
PIECE_BYTES = 16 << 20
_PIECES_AT_ONCE = 4
_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.2
# boto3 repeats a request that got no answer, but not one whose answer broke off on the way.
_TORN = (
    ChecksumError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseParserError,
    ResponseStreamingError,
)


@dataclass(frozen=True)
class _Promise:
    """What an answer says of the whole object; `crc32` is there for objects that we put."""

    size: int
    etag: str
    crc32: str | None
    is_encrypted: bool

    @property
    def md5(self) -> str | None:
        """The ETag where it may be one: not of uploads in parts, nor of encrypted objects."""
        is_digest = len(self.etag) == 32 and not self.is_encrypted
        return self.etag if is_digest and self.crc32 is None else None


def checksum(pieces: Iterable[bytes]) -> str:
    """CRC-32 in hex. It finds damage, not malice: whoever may write may also write the sum."""
    value = 0
    for piece in pieces:
        value = zlib.crc32(piece, value)
    return f"{value:08x}"


def checksum_file(path: Path) -> str:
    """`checksum` of a file."""
    return checksum(_pieces_of(path))


def persist(ask: Callable[[], Result]) -> Result:
    """Ask again when an answer came torn or damaged, a few times with growing pauses."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return ask()
        except _TORN:
            time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
    return ask()


def read_object(client: Any, name: Mapping[str, str], *, verified: bool) -> bytes:
    """All bytes of an object, as many as were promised.

    Args:
        client: boto3's for S3.
        name: `Bucket` and `Key`.
        verified: Compare them with the object's checksum, which the caller may have a better one
            for.

    Raises:
        ChecksumError: What came is not what was stored, however often it was asked for.
        BotoCoreError, ClientError: As boto3 raises them.
    """
    seen: set[str] = set()

    def read_once() -> bytes:
        promise, first = _first_piece(client, name)
        whole = first
        if promise.size > len(first):
            buffer = bytearray(promise.size)
            buffer[: len(first)] = first

            def put(start: int, piece: bytes) -> None:
                buffer[start : start + len(piece)] = piece

            _other_pieces(client, name, promise, put)
            whole = bytes(buffer)
        if verified:
            _check(promise, (whole,), seen)
        return whole

    return persist(read_once)


def read_into(client: Any, name: Mapping[str, str], path: Path) -> None:
    """Write all bytes of an object to a file; memory holds a few pieces of it.

    Raises:
        ChecksumError: What came is not what was stored, however often it was asked for.
        BotoCoreError, ClientError: As boto3 raises them.
    """
    seen: set[str] = set()

    def read_once() -> None:
        promise, first = _first_piece(client, name)
        with path.open("wb") as file:
            file.write(first)
            file.flush()
            if promise.size > len(first):
                place = file.fileno()
                _other_pieces(client, name, promise, lambda at, piece: _put_at(place, piece, at))
        _check(promise, _pieces_of(path), seen)

    persist(read_once)


def _first_piece(client: Any, name: Mapping[str, str]) -> tuple[_Promise, bytes]:
    try:
        answer = client.get_object(**name, Range=f"bytes=0-{PIECE_BYTES - 1}")
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in {"InvalidRange", "416"}:
            raise
        answer = client.get_object(**name)  # an empty object has no first byte
    data: bytes = answer["Body"].read()
    return _promise(answer, len(data)), data


def _promise(answer: Mapping[str, Any], came: int) -> _Promise:
    size = _total(answer, came)
    if came != min(size, PIECE_BYTES) and came != size:
        raise IncompleteReadError(actual_bytes=came, expected_bytes=min(size, PIECE_BYTES))
    encryption = str(answer.get("ServerSideEncryption", ""))
    return _Promise(
        size=size,
        etag=str(answer.get("ETag", "")).strip('"'),
        crc32=answer.get("Metadata", {}).get(CHECKSUM),
        is_encrypted=encryption.startswith("aws:kms") or "SSECustomerAlgorithm" in answer,
    )


def _other_pieces(
    client: Any, name: Mapping[str, str], promise: _Promise, put: Callable[[int, bytes], None]
) -> None:
    def bring(start: int) -> None:
        put(start, persist(lambda: _piece(client, name, promise, start)))

    with ThreadPoolExecutor(_PIECES_AT_ONCE) as readers:
        # Consumed, so that the first failure is raised here.
        list(readers.map(bring, range(PIECE_BYTES, promise.size, PIECE_BYTES)))


def _piece(client: Any, name: Mapping[str, str], promise: _Promise, start: int) -> bytes:
    end = min(start + PIECE_BYTES, promise.size)
    try:
        answer = client.get_object(
            **name, Range=f"bytes={start}-{end - 1}", IfMatch=f'"{promise.etag}"'
        )
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in {"PreconditionFailed", "412"}:
            raise
        raise ChecksumError(
            checksum_type="ETag", expected_checksum=promise.etag, actual_checksum="another version"
        ) from error
    data: bytes = answer["Body"].read()
    if len(data) != end - start or _total(answer, len(data)) != promise.size:
        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=end - start)
    return data


def _total(answer: Mapping[str, Any], came: int) -> int:
    """The size of the whole object; an answer without a range is the whole object."""
    total = str(answer.get("ContentRange", "")).rpartition("/")[2]
    return int(total) if total.isdigit() else int(answer.get("ContentLength", came))


def _check(promise: _Promise, pieces: Iterable[bytes], seen: set[str]) -> None:
    """Raise unless the bytes are the promised ones; `seen` remembers MD5s that were not.

    Some servers' ETags only look like MD5. There the same bytes come twice, and are accepted.
    """
    if promise.crc32 is not None:
        kind, promised, came = CHECKSUM, promise.crc32, checksum(pieces)
    elif promise.md5 is not None:
        kind, promised, came = "MD5", promise.md5, _md5(pieces)
    else:
        return
    if came == promised or came in seen:
        return
    if kind == "MD5":
        seen.add(came)
    raise ChecksumError(checksum_type=kind, expected_checksum=promised, actual_checksum=came)


def _md5(pieces: Iterable[bytes]) -> str:
    hasher = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _put_at(place: int, piece: bytes, start: int) -> None:
    """A positioned write of all bytes; one call may take only a part of them."""
    view = memoryview(piece)
    while view:
        done = os.pwrite(place, view, start)
        view, start = view[done:], start + done
