"""Open the store that a URL names: a folder, or a prefix of a bucket."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from cogvx.cache.disk import DiskCache
from cogvx.errors import ConfigError
from cogvx.store import LocalStore, ObjectStore
from tasks.settings import Settings


def open_store(url: str, settings: Settings) -> ObjectStore:
    """The objects below `url`: s3://bucket/prefix, file:///folder, or a plain path.

    Raises:
        ConfigError: The scheme is unknown, or S3 cannot be reached with these settings.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from tasks.clients.s3 import open_s3  # noqa: PLC0415 - boto3 is slow to import

        return open_s3(
            url,
            endpoint_url=settings.s3_endpoint_url,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            region=settings.s3_region,
        )
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "":
        return LocalStore(Path(url))
    raise ConfigError(f"{url} is of no kind that is known; use a folder, file:// or s3://")


def open_record_store(settings: Settings) -> ObjectStore:
    """The store of records, manifests, adapters and videos; below `home` unless set."""
    return open_store(settings.store_url or str(settings.home / "store"), settings)


def kept_on_disk(store: ObjectStore, settings: Settings) -> ObjectStore:
    """The same store, with copies of what is read from it on this disk; a folder needs none."""
    limit_bytes = round(settings.disk_cache_gib * 2**30)
    if isinstance(store, LocalStore) or not limit_bytes:
        return store
    return DiskCache(store, settings.disk_cache, limit_bytes=limit_bytes)
