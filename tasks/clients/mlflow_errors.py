"""What MLflow raises, as the kind of error that says who acts.

Which of its errors pass by themselves was found by trying: those of a server in trouble, and those
of two processes that write the same at once.
"""

import contextlib
import sys
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError  # raised through MLflow by an SQLite file that is none

from cogvx.errors import CogvxError, ConfigError, TransientError
from tasks.clients.s3_refusals import (
    UNSENDABLE,
    cause_of,
    is_passing,
    is_unsendable,
    refusal,
    server_code,
)
from tasks.clients.secrets import without_secrets

_TRANSIENT = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ABORTED"}
_ERRORS = (
    MlflowException,
    RequestException,
    SQLAlchemyError,
    ImportError,
    OSError,
    BotoCoreError,
    ClientError,
)
_LOGIN = "MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD,"
_S3_SETTINGS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and MLFLOW_S3_ENDPOINT_URL"
# What SQLite says while another process, perhaps a server, makes the same tables.
_MEANWHILE = ("already exists", "duplicate column name", "database is locked")
# What SQLite, PostgreSQL and MySQL say to the slower of two who set the same new tag or alias;
# MLflow passes it on as a bad request.
_FASTER = ("UNIQUE constraint failed", "duplicate key value", "Duplicate entry")


@contextlib.contextmanager
def telling(act: str, tracking_uri: str) -> Iterator[None]:
    """Raise what MLflow raises in here as an error of ours, without secrets of the address.

    Args:
        act: What is tried, as it goes on after "MLflow at ... could not".
        tracking_uri: MLflow's address.

    Raises:
        ConfigError: A person has to act.
        TransientError: It may be asked again.
    """
    handled = sys.exception()
    try:
        yield
    except _raised() as error:
        place = without_secrets(tracking_uri)
        # Tracebacks are logged, and what MLflow raised shows the whole address in them.
        cause = cause_of(error) if place == tracking_uri else None
        said = refusal(error, but=handled)
        raise _translated(error, said, f"MLflow at {place} could not {act}") from cause


def _raised() -> tuple[type[Exception], ...]:
    """What MLflow lets through; asked for when something was raised."""
    from boto3.exceptions import Boto3Error  # noqa: PLC0415 - takes a quarter of a second

    return (*_ERRORS, Boto3Error)


def _translated(error: Exception, said: ClientError | None, subject: str) -> CogvxError:
    if said is not None:
        reason = f"S3, where its artifacts lie, says {server_code(said)}; {_S3_SETTINGS}"
        passes = is_passing(said)
    elif is_unsendable(error):
        reason, passes = f"{UNSENDABLE}; set {_LOGIN} anew", False
    elif isinstance(error, MlflowException):
        reason, passes = str(error.message), error.error_code in _TRANSIENT
        if error.error_code == "BAD_REQUEST" and any(words in reason for words in _FASTER):
            reason, passes = "another process wrote the same at that moment; ask again", True
    elif isinstance(error, RequestException | BotoCoreError):  # past MLflow's own exceptions
        reason, passes = str(error), True
    elif isinstance(error, ImportError):
        reason, passes = f"{error}; install the database's driver", False
    else:
        reason, passes = str(getattr(error, "orig", None) or error), False
        if isinstance(error, SQLAlchemyError) and any(words in reason for words in _MEANWHILE):
            reason += (
                "; another process is making its tables, or ended while it did: then delete it"
            )
            passes = True
    kind = TransientError if passes else ConfigError
    return kind(f"{subject}: {without_secrets(reason)}")
