"""What MLflow raises, as the kind of error that says who acts.

Which of its errors pass by themselves was found by trying: those of a server in trouble, and those
of two processes that write the same at once.
"""

import contextlib
from collections.abc import Iterator

from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError  # raised through MLflow by an SQLite file that is none

from cogvx.errors import CogvxError, ConfigError, TransientError
from tasks.clients.addresses import without_secrets

_TRANSIENT = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ABORTED"}
_ERRORS = (MlflowException, RequestException, SQLAlchemyError, ImportError, OSError)
# What SQLite says while another process, perhaps a server, makes the same tables.
_MEANWHILE = ("already exists", "duplicate column name", "database is locked")
# What SQLite, PostgreSQL and MySQL say to the slower of two who set the same new tag or alias;
# MLflow passes it on as a bad request.
_FASTER = ("UNIQUE constraint failed", "duplicate key value", "Duplicate entry")


@contextlib.contextmanager
def telling(what: str, tracking_uri: str) -> Iterator[None]:
    """Raise what MLflow raises in here as an error of ours, without secrets of the address.

    Args:
        what: What failed, as it goes on after "MLflow at ...".
        tracking_uri: MLflow's address.

    Raises:
        ConfigError: A person has to act.
        TransientError: It may be asked again.
    """
    try:
        yield
    except _ERRORS as error:
        place = without_secrets(tracking_uri)
        # Tracebacks are logged, and what MLflow raised shows the whole address in them.
        cause = error if place == tracking_uri else None
        raise _translated(error, f"MLflow at {place} {what}") from cause


def _translated(error: Exception, subject: str) -> CogvxError:
    if isinstance(error, MlflowException):
        reason, is_passing = str(error.message), error.error_code in _TRANSIENT
        if error.error_code == "BAD_REQUEST" and any(words in reason for words in _FASTER):
            reason, is_passing = "another process wrote the same at that moment; ask again", True
    elif isinstance(error, RequestException):  # artifacts travel past MLflow's own exceptions
        reason, is_passing = str(error), True
    elif isinstance(error, ImportError):
        reason, is_passing = f"{error}; install the database's driver", False
    else:
        reason, is_passing = str(getattr(error, "orig", None) or error), False
        if isinstance(error, SQLAlchemyError) and any(words in reason for words in _MEANWHILE):
            reason += (
                "; another process is making its tables, or ended while it did: then delete it"
            )
            is_passing = True
    kind = TransientError if is_passing else ConfigError
    return kind(f"{subject}: {without_secrets(reason)}")
