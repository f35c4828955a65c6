"""infra/README.md as who copies from it sees it: sections, and the blocks of commands in them."""

import re

from tests.infra.compose import INFRA

README = (INFRA / "README.md").read_text()


def section(heading: str) -> str:
    """What stands below a heading of the second level."""
    (found,) = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL
    )
    return str(found)


def blocks(text: str = README) -> list[str]:
    """All blocks of commands in a text."""
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
