"""What an S3 server or the way to it said, as the error of ours that says who acts.

Sentences name the place and the setting to look at. The server's own sentences are left out,
because they may hold an access key.
"""

import socket

from boto3.exceptions import Boto3Error, RetriesExceededError
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's name
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from cogvx.errors import CogvxError, ConfigError, TransientError
from tasks.clients.s3_refusals import UNSENDABLE, is_passing, is_unsendable, server_code

SDK_ERRORS = (BotoCoreError, ClientError, Boto3Error)

_KEYS = "check COGVX_S3_ACCESS_KEY and COGVX_S3_SECRET_KEY"
_RIGHTS = f"{_KEYS}, and that they may list, read, write and delete there"
_REGION = "set COGVX_S3_REGION to the bucket's region"
_ENDPOINT = "check COGVX_S3_ENDPOINT_URL"
# What a person can do, by the server's word; an answer to HEAD has no words, only a status.
_REMEDIES = {
    "400": f"{_KEYS}, and COGVX_S3_REGION",
    "403": _RIGHTS,
    "AccessDenied": _RIGHTS,
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "ExpiredToken": _KEYS,
    "InvalidToken": _KEYS,
    "301": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "InvalidBucketName": "name another bucket in the URL",
    "NoSuchBucket": "create the bucket, or name another in the URL",
    "RequestTimeTooSkewed": "set this machine's clock",
}
_CONNECTION_ERRORS = (
    ChecksumError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    RetriesExceededError,
)


def translate(error: Exception, place: str, key: str) -> CogvxError:
    """The error of ours for one of `SDK_ERRORS`.

    Args:
        error: What boto3 raised.
        place: The store and its endpoint, without secrets.
        key: The object that was asked for.

    Returns:
        ConfigError when a setting is wrong, TransientError when the same call may succeed later.
    """
    if isinstance(error, ClientError):
        return _from_server(error, place, key)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return ConfigError(f"there are no keys for {place}; {_KEYS}")
    if isinstance(error, ParamValidationError):
        return ConfigError(f"{place} cannot be the place of {key}; name another bucket in the URL")
    return _from_the_way(error, place, key)


def _from_server(error: ClientError, place: str, key: str) -> CogvxError:
    code = server_code(error)
    if is_passing(error):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return TransientError(f"{place} failed on {key}: {code} (HTTP {status})")
    remedy = _REMEDIES.get(code, f"{_ENDPOINT} and the bucket's settings")
    return ConfigError(f"{place} refuses {key}: {code}; {remedy}")


def _from_the_way(error: Exception, place: str, key: str) -> CogvxError:
    kind = type(error).__name__
    if is_unsendable(error):
        return ConfigError(f"{place} cannot be asked for {key}: {UNSENDABLE}; {_KEYS}")
    if isinstance(error, SSLError):
        return ConfigError(f"{place} has no certificate that this machine trusts; {_ENDPOINT}")
    if _is_unknown_host(error):
        return ConfigError(f"{place} cannot be reached: there is no such host; {_ENDPOINT}")
    if isinstance(error, _CONNECTION_ERRORS):
        return TransientError(
            f"{place} was not reached for {key}: {kind}; if it stays, {_ENDPOINT}"
        )
    return ConfigError(f"{place} cannot be asked for {key}: {kind}; {_ENDPOINT}")


def _is_unknown_host(error: BaseException | None) -> bool:
    """Whether a name could not be resolved for good; a resolver that is down says EAI_AGAIN."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return error.errno != socket.EAI_AGAIN
        error = error.__cause__ or error.__context__
    return False
