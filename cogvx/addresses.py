"""Addresses as they may be shown: those of servers can hold a user and a password, or a token."""

import re

# Who is alone before the @ of a web address is mostly no person; elsewhere it is, as in ssh://git@.
_TOKEN = re.compile(r"""((?<=http://)|(?<=https://))[^\s'"/@:?#]+@""", re.IGNORECASE)
# SQLAlchemy takes passwords with slashes, apostrophes or an @, and users with an @. None is longer,
# and without an end every address of a long text would be read to the text's end.
_PASSWORD = re.compile(r"""(?<=://)([^\s"/:]{0,200}):[^\s"]{0,1000}@""")
# libpq's form, and keys to S3 or Azure in a signed address.
_QUERY = re.compile(
    r"""([?&;](?:password|passwd|pwd|passphrase|token|sig|[\w-]*(?:signature|secret|key|credential))=)[^\s&;'"]+""",
    re.IGNORECASE,
)


def without_passwords(text: str) -> str:
    """A text, as an address or what a server says of one, with *** for passwords and tokens."""
    return _QUERY.sub(r"\1***", _TOKEN.sub("***@", _PASSWORD.sub(r"\1:***@", text)))
