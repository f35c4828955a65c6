"""An object store on any S3-compatible server.

Creation relies on `If-None-Match: *`, which AWS, Ceph and moto honour; a store asks its server
once. Where the header is refused or ignored, an object is looked for before it is put: nothing is
replaced, but of writers that race within one request both may be told that they won. For records,
named by their content, that costs no more than an upload.
"""

import functools
import logging
import math
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import botocore.session
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ChecksumError
from botocore.utils import parse_timestamp
from pydantic import SecretStr

from cogvx import files
from cogvx.errors import ConfigError, IntegrityError
from cogvx.store import Absent, ObjectInfo, check_key
from tasks.clients.s3_errors import SDK_ERRORS, translate
from tasks.clients.s3_read import checksum, checksum_file, persist, read_into, read_object
from tasks.clients.s3_refusals import cause_of, is_absent
from tasks.clients.s3_sight import Sight
from tasks.clients.s3_write import LARGE_BYTES, honours_conditions, put, put_new, put_stream
from tasks.clients.secrets import hold, without_secrets

logger = logging.getLogger(__name__)

_CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": 32,
    "retries": {"mode": "standard", "total_max_attempts": 4},
    # boto3 would put its own together for every request, a tenth of what a request costs here.
    "user_agent": "cogvx",
    # Over HTTP the signature covers the body; the newer checksums in trailers are unknown to
    # many servers, Ceph 16 among them.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


def open_s3(
    url: str,
    *,
    endpoint_url: str | None,
    access_key: SecretStr | None,
    secret_key: SecretStr | None,
    region: str | None,
) -> "S3Store":
    """Open `s3://bucket/prefix`; nothing is asked of the server yet.

    Without an endpoint it is AWS; without keys boto3 finds them, such as a machine's own role.

    Raises:
        ConfigError: The URL names no bucket, the endpoint is no URL, or one key of two is missing.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigError(f'"{without_secrets(url)}" is not an S3 location; use s3://bucket/prefix')
    if "@" in parts.netloc:  # no bucket's name has one; what stands before it is not repeated
        raise ConfigError(
            f"s3://***@{parts.netloc.rpartition('@')[2]}{parts.path} holds a login, which pages "
            "would show; use s3://bucket/prefix, and COGVX_S3_ACCESS_KEY and COGVX_S3_SECRET_KEY"
        )
    if (_reveal(access_key) is None) != (_reveal(secret_key) is None):
        raise ConfigError(
            f"one of two keys is set for {url}; set COGVX_S3_ACCESS_KEY and COGVX_S3_SECRET_KEY"
        )
    # Servers other than AWS seldom have a host name for each bucket.
    style = {"addressing_style": "path" if endpoint_url else "auto"}
    try:
        client = Session(botocore_session=_quick_session()).client(
            "s3",
            endpoint_url=endpoint_url or None,
            aws_access_key_id=_reveal(access_key),
            aws_secret_access_key=_reveal(secret_key),
            region_name=region or None,
            config=Config(**_CONFIG, s3=style),
        )
    except (BotoCoreError, ValueError) as error:
        shown = without_secrets(endpoint_url or "")
        raise ConfigError(
            f'{url} cannot be opened at COGVX_S3_ENDPOINT_URL = "{shown}"; use http(s)://host:port'
        ) from cause_of(error)
    return S3Store(parts.netloc, parts.path, client)


class S3Store:
    """A prefix of a bucket. Keys are relative to the prefix; one store serves all threads."""

    def __init__(self, bucket: str, prefix: str, client: Any) -> None:
        """`client` is boto3's for S3; `prefix` may be empty."""
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._client = client
        self._place = f"{self.url} at {without_secrets(client.meta.endpoint_url)}"
        self._sight = Sight(self._place)
        self._conditions: bool | None = None
        self._asking_conditions = threading.Lock()

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`; large objects come in parallel ranges.

        Raises:
            IntegrityError: Also when its bytes are not those that were stored.
        """
        return self._read(key, verified=True)

    def read_checked(self, key: str, check: Callable[[bytes], None]) -> bytes:
        """See `cogvx.store.read_checked`; what fails the check is asked for once more."""
        data = self._read(key, verified=False)
        try:
            check(data)
        except IntegrityError:
            data = self._read(key, verified=True)
            check(data)
        return data

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`; a large object goes in parts."""
        if len(data) >= LARGE_BYTES:
            self._upload(key, BytesIO(data), checksum((data,)))
            return
        name = self._object(key)
        with self._asking(key):
            put(self._client, name, data)
        self._sight.add(name["Key"])

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`; one PutObject whatever the size, as that can be conditional."""
        name = self._object(key)
        with self._asking(key):
            conditional = self._has_conditions()
        if not conditional and self.info(key) is not None:
            return False
        with self._asking(key):
            is_ours = put_new(self._client, name, data, conditional=conditional, sight=self._sight)
        self._sight.add(name["Key"])
        return is_ours

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.info`."""
        name = self._object(key)
        try:
            answer = self._sight.wait_for(name["Key"], lambda: self._client.head_object(**name))
        except SDK_ERRORS as error:
            if is_absent(error):
                return None
            raise translate(error, self._place, key) from cause_of(error)
        return ObjectInfo(
            check_key(key), answer["ContentLength"], _stamp(answer), _modified(answer)
        )

    def entries(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.entries`; a thousand objects a request, in the server's order of UTF-8.

        Empty objects that consoles make to show a folder are left out.
        """
        root = f"{self.prefix}/" if self.prefix else ""
        ask = functools.partial(
            self._client.list_objects_v2, Bucket=self.bucket, Prefix=root + prefix
        )
        while True:
            with self._asking(prefix or "a listing"):
                page = persist(ask)
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(root)
                if not item["Key"].endswith("/"):
                    yield ObjectInfo(key, item["Size"], _stamp(item), _modified(item))
            if not page.get("IsTruncated"):
                return
            ask = functools.partial(ask, ContinuationToken=page["NextContinuationToken"])

    def fetch(self, key: str, folder: Path) -> Path:
        """See `ObjectStore.fetch`; large objects come in parallel ranges."""
        path = folder / check_key(key)
        name = self._object(key)

        def bring(aside: Path) -> None:
            self._sight.wait_for(name["Key"], lambda: read_into(self._client, name, aside))

        with self._asking(key):
            files.write_file(path, bring)
        return path

    def upload(self, path: Path, key: str) -> None:
        """See `ObjectStore.upload`; the file is streamed, a large one in parts."""
        crc32 = checksum_file(path)
        with path.open("rb") as file:
            self._upload(key, file, crc32)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        name = self._object(key)
        with self._asking(key):
            self._client.delete_object(**name)
        self._sight.discard(name["Key"])

    def _read(self, key: str, *, verified: bool) -> bytes:
        name = self._object(key)
        with self._asking(key):
            return self._sight.wait_for(
                name["Key"], lambda: read_object(self._client, name, verified=verified)
            )

    def _upload(self, key: str, data: IO[bytes], crc32: str) -> None:
        name = self._object(key)
        with self._asking(key):
            put_stream(self._client, name, data, crc32=crc32)
        self._sight.add(name["Key"])

    def _has_conditions(self) -> bool:
        """Whether the server honours `If-None-Match`; asked once."""
        with self._asking_conditions:
            if self._conditions is None:
                probe = self._object(f".probe-{uuid.uuid4().hex}")
                self._conditions = honours_conditions(self._client, probe)
                if not self._conditions:
                    logger.warning(
                        "%s has no conditional PutObject; objects are looked for before they are "
                        "created, and of writers within one request the last one stays",
                        self._place,
                    )
            return self._conditions

    def _object(self, key: str) -> dict[str, str]:
        checked = check_key(key)
        path = f"{self.prefix}/{checked}" if self.prefix else checked
        return {"Bucket": self.bucket, "Key": path}

    @contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        try:
            yield
        except ChecksumError as error:
            raise IntegrityError(
                f"{key} in {self.url} is damaged: its bytes are not those that were stored"
            ) from error
        except SDK_ERRORS as error:
            if is_absent(error):
                raise Absent(f"{key} is not in {self.url}") from cause_of(error)
            raise translate(error, self._place, key) from cause_of(error)


def _quick_session() -> botocore.session.Session:
    """A session that reads the times in a listing in a third of botocore's time.

    botocore guesses at the form of each with dateutil, which is most of the work of a listing.
    """
    session = botocore.session.get_session()
    factory = session.get_component("response_parser_factory")
    factory.set_parser_defaults(timestamp_parser=_read_time)
    return session


def _read_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        read: datetime = parse_timestamp(text)  # headers have the form of mails
        return read


def _stamp(answer: dict[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')


def _modified(answer: dict[str, Any]) -> float:
    # Some servers' listings tell fractions of a second, which HEAD has no place for.
    return float(math.floor(answer["LastModified"].timestamp()))


def _reveal(secret: SecretStr | None) -> str | None:
    """The secret in clear, for boto3 alone; an empty setting is none."""
    return (hold(secret.get_secret_value()) or None) if secret else None
