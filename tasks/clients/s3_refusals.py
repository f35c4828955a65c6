"""What an S3 server refuses, by its word; its sentences stay out of messages and of tracebacks.

Some servers repeat the access key that they were shown, and Prefect keeps tracebacks. Whoever needs
only this does not load boto3.
"""

from botocore.exceptions import ClientError

from tasks.clients.secrets import cause_without_secrets

UNSENDABLE = "a key or token holds a line end or another character that no header may"
"""What is wrong where `is_unsendable` says so."""

_SERVER_ERROR = 500
_HEADER = "header value"  # in the words of requests and of http.client, who repeat it
_PASSING = {
    "429",
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "NoSuchUpload",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}


def is_absent(error: Exception) -> bool:
    """Whether the server said that there is no such object."""
    return server_code(error) in {"404", "NoSuchKey"}


def server_code(error: Exception) -> str:
    """The server's word for what went wrong, or nothing if no server said one."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_passing(error: ClientError) -> bool:
    """Whether the same call may succeed later."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return server_code(error) in _PASSING or status >= _SERVER_ERROR


def refusal(error: BaseException | None, *, but: BaseException | None = None) -> ClientError | None:
    """What a server said, where that is what led to an error: uploads wrap it.

    `but` is what was handled before, which every error has behind it and which explains none.
    """
    while error is not None and error is not but and not isinstance(error, ClientError):
        error = error.__cause__ or error.__context__
    return error if error is not but else None


def is_unsendable(error: Exception) -> bool:
    """Whether a key or a token could not be put into a request, as one with a line end."""
    return _HEADER in str(error)


def cause_of(error: Exception) -> Exception | None:
    """An error as a traceback may show it, which Prefect keeps; None if it may not.

    Of a server's refusal its word and the operation are left, and the lines of code.
    """
    if (said := refusal(error)) is not None:
        answer = {**said.response, "Error": {"Code": server_code(said), "Message": "left out here"}}
        shown: Exception = ClientError(answer, said.operation_name)
        return shown.with_traceback(said.__traceback__)
    return cause_without_secrets(error)
