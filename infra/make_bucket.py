#!/usr/bin/env python
"""Make the bucket of COGVX_STORE_URL unless it is there, and try whether its server can be trusted.

Of several makers of one object all but one must be told that they lost (`If-None-Match: *`), or two
runs at once could replace each other's manifests. Run once before anything else uses the server.
"""

import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError

from cogvx.errors import CogvxError, ConfigError
from tasks.clients.s3_errors import SDK_ERRORS, translate
from tasks.clients.s3_refusals import cause_of, is_absent
from tasks.clients.s3_write import honours_conditions
from tasks.clients.secrets import without_secrets
from tasks.settings import Settings, settings


def make_bucket(here: Settings) -> str:
    """The sentence that says what was done.

    Raises:
        ConfigError: No bucket is named, the keys are refused, or the server replaces objects that
            it was told to keep.
        TransientError: The server did not answer.
    """
    parts = urlsplit(here.store_url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigError(
            f'COGVX_STORE_URL = "{here.store_url}" names no bucket; use s3://bucket/prefix'
        )
    client = _client(here)
    try:
        made = _make(client, parts.netloc)
        probe = {"Bucket": parts.netloc, "Key": f".probe-{uuid.uuid4().hex}"}
        is_honest = honours_conditions(client, probe)
    except SDK_ERRORS as error:
        place = f"s3://{parts.netloc} at {without_secrets(client.meta.endpoint_url)}"
        raise translate(error, place, "the bucket") from cause_of(error)
    if not is_honest:
        raise ConfigError(
            f"the server of s3://{parts.netloc} replaces objects in spite of If-None-Match; use "
            "one that honours it, as AWS, Ceph and the Versity gateway do"
        )
    return f"s3://{parts.netloc} {'was made' if made else 'is there'}, and replaces nothing unasked"


def _make(client: Any, bucket: str) -> bool:
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if not is_absent(error):
            raise
        client.create_bucket(Bucket=bucket)
        return True
    return False


def _client(here: Settings) -> Any:
    access, secret = here.s3_access_key, here.s3_secret_key
    return boto3.client(
        "s3",
        endpoint_url=here.s3_endpoint_url or None,
        aws_access_key_id=access.get_secret_value() if access else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        region_name=here.s3_region or None,
    )


if __name__ == "__main__":
    try:
        sys.stdout.write(make_bucket(settings()) + "\n")
    except CogvxError as error:
        sys.exit(str(error))
