"""What a person may write to mean a version, and what nobody may make of it."""

import pytest

from cogvx.errors import ConfigError
from cogvx.inference.job import adapter_problems, parse_adapter
from cogvx.inference.model_ref import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("style", Reference("style")),
        ("style@champion", Reference("style", alias="champion")),
        ("models:/a style/12", Reference("a style", version=12)),
        ("models:/style", Reference("style")),
        ("models:/style@champion", Reference("style", alias="champion")),
    ],
)
def test_names_aliases_and_numbers_are_understood(text: str, meant: Reference) -> None:
    assert parse_reference(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@a",
        "a@",
        "a/b",
        "a/0",
        "a@b:c",
        "a@b:0.5:c",
        "a@b'",
        "a/latest",
        "a/3@b",
        "a/1/2",
        "../../a",
        "a/\uff11",
        "a/" + "9" * 5000,
        "a' AND 'b",
        'a"b',
    ],
)
def test_what_names_no_version_is_refused_before_the_registry_is_asked(text: str) -> None:
    with pytest.raises(ConfigError, match="names no version"):
        parse_reference(text)
    asked = parse_adapter(f"models:/{text}:0.5")
    (problem,) = adapter_problems((asked,), ())
    assert "does not name a version of the registry" in str(problem)


def test_what_one_command_understands_the_other_does() -> None:
    asked = tuple(map(parse_adapter, ("models:/style", "models:/style@champion:0.6")))
    assert adapter_problems(asked, ()) == []
    assert [parse_reference(one.ref).name for one in asked] == ["style", "style"]
