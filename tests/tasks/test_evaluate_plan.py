"""What the arms of an evaluation are called."""

import pytest

from tasks.clients.versions import Version
from tasks.evaluation.evaluate_plan import reference_title


def version(number: int) -> Version:
    return Version("glow", number, (), "run", "source")


@pytest.mark.parametrize(
    ("meets", "holder", "title"),
    [
        (version(1), version(1), "champion"),
        (version(1), version(2), "former champion"),  # the champion v2 is judged itself
        (None, None, "champion"),  # nobody is met, so nobody is called so
    ],
)
def test_only_who_holds_the_alias_is_called_the_champion(
    meets: Version | None, holder: Version | None, title: str
) -> None:
    assert reference_title(meets, holder) == title
