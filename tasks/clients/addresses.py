"""Addresses as they may be shown: those of servers can hold a user and a password."""

import re

# SQLAlchemy takes passwords with slashes, and some people write them with an @.
_PASSWORD = re.compile(r"""(?<=://)([^\s'"/@:]*):[^\s'"]*@""")


def without_secrets(text: str) -> str:
    """A text, such as an address or what a server says of one, with *** for every password."""
    return _PASSWORD.sub(r"\1:***@", text)
