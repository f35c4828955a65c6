"""Addresses as they may be shown: those of servers can hold a user and a password, or a token."""

import re
import traceback

# Who is alone before the @ of a web address is mostly no person; elsewhere it is, as in ssh://git@.
_TOKEN = re.compile(r"""((?<=http://)|(?<=https://))[^\s'"/@:?#]+@""", re.IGNORECASE)
# SQLAlchemy takes passwords with slashes, and some people write them with an @.
_PASSWORD = re.compile(r"""(?<=://)([^\s'"/@:]*):[^\s'"]*@""")


def without_secrets(text: str) -> str:
    """A text, as an address or what a server says of one, with *** for passwords and tokens."""
    return _TOKEN.sub("***@", _PASSWORD.sub(r"\1:***@", text))


def cause_without_secrets(error: Exception) -> Exception | None:
    """An error as the cause of another, as tracebacks are logged; None if that would tell secrets.

    Args:
        error: With all that led to it, whose texts may hold addresses.
    """
    text = "".join(traceback.format_exception(error))
    return error if without_secrets(text) == text else None
