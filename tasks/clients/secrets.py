"""Texts as they may be shown: Prefect keeps messages, logs and tracebacks, and MLflow keeps tags.

Left out are passwords in addresses, and what this process was given in secret, wherever it stands:
libraries repeat a key or a token that a server or a header did not take.
"""

import logging
import re
import traceback
from typing import Any

from cogvx.addresses import without_passwords

# Ends of words that nothing harmless has; whole words; keys that are written in one word. PWD alone
# is a shell's folder. Who knows the address of a webhook may write there.
_SECRET = re.compile(
    r"((SECRETS?|TOKEN|PASSWORDS?|PASSWD|PASSPHRASES?|WEBHOOK(S|URL)?|CONN(ECTION)?_?STR(ING)?)"
    r"|(^|_)(CREDENTIALS?|CREDS|AUTH|KEYS?|PASS|PAT|DSN)"
    r"|(API|ACCESS|ACCOUNT|PRIVATE|SIGNING|SSH)KEYS?"
    r"|_PWD)[0-9]*(_|$)"
)
_LEAST_CHARACTERS = 6  # what is shorter is part of ordinary words
_held: set[str] = set()


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds what nobody should read."""
    return _SECRET.search(name.upper()) is not None


def hold(secret: str) -> str:
    """The same, which is shown nowhere from now on.

    `tasks.settings` holds what the environment says, a store the keys that it opens with: a file
    may have had those.
    """
    if len(bare := secret.strip()) >= _LEAST_CHARACTERS:  # a line end belongs to its file
        _held.add(bare)
    return secret


def without_secrets(text: str) -> str:
    """A text, as a message or what a server says, with *** for what nobody should read."""
    shown = without_passwords(text)
    for secret in sorted(_held, key=len, reverse=True):
        shown = shown.replace(secret, "***")
    return shown


def cause_without_secrets(error: Exception) -> Exception | None:
    """An error as the cause of another, as tracebacks are logged; None if that would tell secrets.

    Args:
        error: With all that led to it.
    """
    text = "".join(traceback.format_exception(error))
    return error if without_secrets(text) == text else None


class WatchedRecord(logging.LogRecord):
    """A line that shows no secret, nor does its traceback.

    It is put together where logging expects that to fail: a value that cannot be printed stops
    nobody.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        """As `logging.LogRecord`."""
        super().__init__(*args, **more)
        if self.exc_info and self.exc_info[1] is not None:
            said = "".join(traceback.format_exception(self.exc_info[1])).rstrip("\n")
            if (shown := without_secrets(said)) != said:
                self.exc_text = shown  # which formatters take instead

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """The line, its values put in."""
        return without_secrets(super().getMessage())


def watch_logs() -> None:
    """From now on no line or traceback that is logged shows a secret, whoever's it is.

    Libraries log as well, and Prefect keeps what it sees.
    """
    logging.setLogRecordFactory(WatchedRecord)
