"""Bytes to an S3 server, with what later readers and makers need in the object's metadata.

That is a checksum, and the maker's own name: an answer can be lost after the server acted, and by
the name the repeated request finds out who made what stands there.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tasks.clients.s3_read import CHECKSUM, PIECE_BYTES, checksum
from tasks.clients.s3_refusals import is_absent, server_code
from tasks.clients.s3_sight import Sight

LARGE_BYTES = 4 * PIECE_BYTES
_TRANSFER = TransferConfig(multipart_threshold=LARGE_BYTES, multipart_chunksize=PIECE_BYTES)
_MAKER = "made-by"
_THERE = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "409"}


def honours_conditions(client: Any, name: Mapping[str, str]) -> bool:
    """Whether `If-None-Match: *` keeps a server from replacing; costs three requests.

    Args:
        client: boto3's for S3.
        name: `Bucket` and `Key` of an object that nobody else uses; none is left there.
    """
    try:
        for _ in range(2):
            client.put_object(**name, Body=b"probe", IfNoneMatch="*")
        return False  # it replaced its own
    except ClientError as error:
        code = server_code(error)
        if code in _THERE | _CONFLICT:
            return True
        if code == "NotImplemented":
            return False
        raise
    finally:
        with suppress(ClientError):
            client.delete_object(**name)


def put(client: Any, name: Mapping[str, str], data: bytes) -> None:
    """Create or replace an object in one request."""
    client.put_object(**name, Body=data, Metadata={CHECKSUM: checksum((data,))})


def put_new(
    client: Any, name: Mapping[str, str], data: bytes, *, conditional: bool, sight: Sight
) -> bool:
    """Create an object unless it is there; True if what stands there now is ours.

    Unconditionally, the caller has looked before; then racing makers may all be told that they
    won, and the last one's bytes stay.

    Raises:
        ClientError: Also when another maker is under way and nothing stands there yet.
        TransientError: The server says both that the object is there and that it is not.
    """
    maker = uuid.uuid4().hex
    metadata = {CHECKSUM: checksum((data,)), _MAKER: maker}
    condition = {"IfNoneMatch": "*"} if conditional else {}
    try:
        client.put_object(**name, Body=data, Metadata=metadata, **condition)
        return True
    except ClientError as error:
        code = server_code(error)
        if code in _CONFLICT:
            if _maker_of(client, name) is None:
                raise
        elif code not in _THERE:
            raise
    sight.add(name["Key"])
    return sight.wait_for(name["Key"], lambda: _maker_at(client, name)) == maker


def put_stream(client: Any, name: Mapping[str, str], data: IO[bytes], *, crc32: str) -> None:
    """Create or replace an object from a file; a large one goes in parts, side by side."""
    maker = uuid.uuid4().hex
    extra = {"Metadata": {CHECKSUM: crc32, _MAKER: maker}}
    try:
        # Not upload_file: it hides the server's word inside another error.
        client.upload_fileobj(data, name["Bucket"], name["Key"], Config=_TRANSFER, ExtraArgs=extra)
    except ClientError as error:
        # Parts are gone once joined, which the server may have done although its answer was lost.
        if server_code(error) != "NoSuchUpload" or _maker_of(client, name) != maker:
            raise


def _maker_of(client: Any, name: Mapping[str, str]) -> str | None:
    """Who made what stands there, or None if nothing does."""
    try:
        return _maker_at(client, name)
    except ClientError as error:
        if is_absent(error):
            return None
        raise


def _maker_at(client: Any, name: Mapping[str, str]) -> str:
    """Who made an object; nothing of objects that were not made by this program."""
    return str(client.head_object(**name).get("Metadata", {}).get(_MAKER, ""))
