"""Texts as they may be shown: Prefect keeps messages, logs and tracebacks, and MLflow keeps tags.

Left out are passwords in addresses, and what this process was given in secret, wherever it stands:
libraries repeat a key or a token that a server or a header did not take.
"""

import re
import traceback

from cogvx.addresses import without_passwords
from tasks.settings import said_under

# Ends of words that nothing harmless has; whole words; keys that are written in one word. PWD alone
# is a shell's folder.
_SECRET = re.compile(
    r"((SECRETS?|TOKEN|PASSWORDS?|PASSWD|PASSPHRASES?)"
    r"|(^|_)(CREDENTIALS?|CREDS|AUTH|KEYS?|PASS|PAT)"
    r"|(API|ACCESS|ACCOUNT|PRIVATE|SIGNING|SSH)KEYS?"
    r"|_PWD)[0-9]*(_|$)"
)
_LEAST_CHARACTERS = 6  # what is shorter is part of ordinary words
_held: set[str] = set()


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds what nobody should read."""
    return _SECRET.search(name.upper()) is not None


def hold(secret: str) -> str:
    """The same, which is shown nowhere from now on: settings may come from a file."""
    _held.add(secret)
    return secret


def without_secrets(text: str) -> str:
    """A text, as a message or what a server says, with *** for what nobody should read."""
    shown = without_passwords(text)
    for secret in _secrets():
        shown = shown.replace(secret, "***")
    return shown


def cause_without_secrets(error: Exception) -> Exception | None:
    """An error as the cause of another, as tracebacks are logged; None if that would tell secrets.

    Args:
        error: With all that led to it.
    """
    text = "".join(traceback.format_exception(error))
    return error if without_secrets(text) == text else None


def _secrets() -> list[str]:
    """What this process was given, the longest first, without a line end that it may have."""
    known = {each.strip() for each in said_under(is_secret) | _held}
    return sorted((each for each in known if len(each) >= _LEAST_CHARACTERS), key=len, reverse=True)
