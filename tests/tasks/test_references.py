"""What a person may write to mean a version, and what nobody may make of it."""

import pytest

from cogvx.errors import ConfigError
from cogvx.inference.job import parse_model
from tasks.models import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("style", Reference("style")),
        ("style@champion", Reference("style", alias="champion")),
        ("models:/a style/12", Reference("a style", version=12)),
    ],
)
def test_names_aliases_and_numbers_are_understood(text: str, meant: Reference) -> None:
    assert parse_reference(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", "@a", "a@", "a/b", "a/1/2", "../../a", "a/\uff11", "a/" + "9" * 5000, "a' AND 'b", 'a"b'],
)
def test_what_names_no_version_is_refused_before_the_registry_is_asked(text: str) -> None:
    with pytest.raises(ConfigError, match="names no version"):
        parse_reference(text)


def test_a_number_without_end_is_no_version_to_generate_with() -> None:
    assert parse_model("models:/style/" + "9" * 5000) is None
