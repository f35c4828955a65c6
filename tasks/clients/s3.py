"""An object store on any S3-compatible server.

Creation relies on `If-None-Match: *`, which AWS, Ceph and moto honour. A server that refuses the
header is named in a ConfigError; one that ignores it gives every racing writer True, which for
records, named by their content, costs no more than an upload.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from pydantic import SecretStr

from cogvx import files
from cogvx.errors import ConfigError, IntegrityError
from cogvx.store import ObjectInfo, check_key
from tasks.clients.s3_errors import (
    SDK_ERRORS,
    is_absent,
    server_code,
    translate,
    without_secrets,
)

_MIB = 1 << 20
_TRANSFER = TransferConfig(multipart_threshold=64 * _MIB, multipart_chunksize=16 * _MIB)
_CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": 32,
    "retries": {"mode": "standard", "total_max_attempts": 4},
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
        raise ConfigError(f'"{url}" is not an S3 location; use s3://bucket/prefix')
    if (_reveal(access_key) is None) != (_reveal(secret_key) is None):
        raise ConfigError(
            f"one of two keys is set for {url}; set COGVX_S3_ACCESS_KEY and COGVX_S3_SECRET_KEY"
        )
    # Servers other than AWS seldom have a host name for each bucket.
    style = {"addressing_style": "path" if endpoint_url else "auto"}
    try:
        client = Session().client(
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
        ) from error
    return S3Store(parts.netloc, parts.path, client)


class S3Store:
    """A prefix of a bucket. Keys are relative to the prefix; one store serves all threads."""

    def __init__(self, bucket: str, prefix: str, client: Any) -> None:
        """`client` is boto3's for S3; `prefix` may be empty."""
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._client = client
        self._place = f"{self.url} at {without_secrets(client.meta.endpoint_url)}"

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        with self._asking(key):
            answer = self._client.get_object(**self._object(key))
            data: bytes = answer["Body"].read()
        return data

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        with self._asking(key):
            self._client.put_object(**self._object(key), Body=data)

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`; one PutObject, as no server creates multipart uploads so.

        When the answer to a request that succeeded is lost, its repetition finds the object there,
        and the result is False although the object is ours.
        """
        try:
            self._client.put_object(**self._object(key), Body=data, IfNoneMatch="*")
        except SDK_ERRORS as error:
            code = server_code(error)
            if code in {"PreconditionFailed", "412"}:
                return False
            # Another writer is under way; it has won only if its object stands there now.
            if code in {"ConditionalRequestConflict", "409"} and self.info(key) is not None:
                return False
            raise translate(error, self._place, key) from error
        return True

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.info`."""
        try:
            answer = self._client.head_object(**self._object(key))
        except SDK_ERRORS as error:
            if is_absent(error):
                return None
            raise translate(error, self._place, key) from error
        return ObjectInfo(check_key(key), answer["ContentLength"], _stamp(answer))

    def entries(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.entries`; a thousand objects a request, in the server's order of UTF-8.

        Empty objects that consoles make to show a folder are left out.
        """
        root = f"{self.prefix}/" if self.prefix else ""
        pages = self._client.get_paginator("list_objects_v2")
        with self._asking(prefix or "a listing"):
            for page in pages.paginate(Bucket=self.bucket, Prefix=root + prefix):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(root)
                    if not item["Key"].endswith("/"):
                        yield ObjectInfo(key, item["Size"], _stamp(item))

    def fetch(self, key: str, folder: Path) -> Path:
        """See `ObjectStore.fetch`; large objects come in parallel ranges."""
        path = folder / check_key(key)
        name = self._object(key)
        with self._asking(key):
            files.write_file(
                path,
                lambda aside: self._client.download_file(
                    name["Bucket"], name["Key"], str(aside), Config=_TRANSFER
                ),
            )
        return path

    def upload(self, path: Path, key: str) -> None:
        """See `ObjectStore.upload`; the file is streamed, a large one in parts."""
        name = self._object(key)
        with self._asking(key), path.open("rb") as file:
            # Not upload_file: it hides the server's word inside another error.
            self._client.upload_fileobj(file, name["Bucket"], name["Key"], Config=_TRANSFER)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with self._asking(key):
            self._client.delete_object(**self._object(key))

    def _object(self, key: str) -> dict[str, str]:
        checked = check_key(key)
        path = f"{self.prefix}/{checked}" if self.prefix else checked
        return {"Bucket": self.bucket, "Key": path}

    @contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        try:
            yield
        except SDK_ERRORS as error:
            if is_absent(error):
                raise IntegrityError(f"{key} is not in {self.url}") from error
            raise translate(error, self._place, key) from error


def _stamp(answer: dict[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')


def _reveal(secret: SecretStr | None) -> str | None:
    """The secret in clear, for boto3 alone; an empty setting is none."""
    return (secret.get_secret_value() or None) if secret else None
