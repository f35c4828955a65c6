"""A TOML document that a person writes: closed sections, and every fault of one in plain words."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticKnownError

from cogvx.errors import ConfigError, Problem, as_toml
from cogvx.form import form_of, label_of

_SHOWN = 80  # characters of a wrong value that a message repeats


def _known_version(version: int) -> int:
    if version != 1:
        raise PydanticKnownError("literal_error", {"expected": "1"})
    return version


SchemaVersion = Annotated[int, AfterValidator(_known_version)]
"""1; unlike a literal it refuses `true` and 1.0, which Python calls equal to 1."""


class Section(BaseModel):
    """A closed, frozen, strict part of a document; the field order is the order in forms.

    Strict: "120" is no number and 1 is no bool; only whole numbers are taken for floats.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        field_title_generator=lambda name, _: label_of(name),
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """The schema that forms are drawn from, see `cogvx.form`."""
        found = handler.resolve_ref_schema(handler(schema))
        short = form_of(found)
        found.clear()  # in place, as it stands in the list of definitions
        found.update(short)
        return found

    @model_validator(mode="before")
    @classmethod
    def _take_lists_for_tuples(cls, value: object) -> object:
        """TOML and JSON have lists only; strictness would ask for tuples."""
        if not isinstance(value, Mapping):
            return value
        return {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: There is no such file, or it is not TOML.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        json.dumps(document, default=str)  # what no message could write out is found here
        return document
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder; name a TOML file") from error
    except OSError as error:
        raise ConfigError(f"{shown_text(str(path))} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} cannot be read as TOML: it is nested too deeply") from error
    except ValueError as error:
        # Python's own: a NUL in the path, or a number too long to be read or written out.
        if "\0" in str(path):
            raise ConfigError(f"{str(path)!r} cannot be the name of a file") from error
        raise ConfigError(f"{path} cannot be read as TOML: a number is too long") from error


def parse_section(
    value: object, kind: type[Section], where: str
) -> tuple[Section | None, list[Problem]]:
    """Validate one section, turning every complaint into a problem with its place."""
    try:
        return kind.model_validate(value), []
    except ValidationError as error:
        return None, problems_of(error, where, tuple(kind.model_fields))


def problems_of(error: ValidationError, where: str, names: tuple[str, ...]) -> list[Problem]:
    """Translate pydantic's complaints; `names` are the keys that would have been right."""
    problems = []
    for detail in error.errors(include_url=False):
        place = _place(where, detail["loc"])
        if detail["type"] == "extra_forbidden":
            problems.append(unknown_key(place, detail["input"], str(detail["loc"][-1]), names))
        elif detail["type"] == "missing":
            problems.append(Problem(place, None, "is missing"))
        else:
            wrong, use = _in_plain_words(detail, place)
            problems.append(Problem(place, _shown(detail["input"]), wrong, use))
    return problems


_WRONG_KIND = "is of the wrong kind"
# What pydantic's types of error mean to a person; the braces are filled from the error's context.
_PHRASES = {
    "bool_type": (_WRONG_KIND, "use true or false"),
    "float_type": (_WRONG_KIND, "use a number"),
    "int_type": (_WRONG_KIND, "use a whole number"),
    "string_type": (_WRONG_KIND, "use text in quotes"),
    "tuple_type": (_WRONG_KIND, "use a list in [ ]"),
    "finite_number": ("is not finite", "use an ordinary number"),
    "greater_than": ("is too small", "use more than {gt}"),
    "greater_than_equal": ("is too small", "use at least {ge}"),
    "less_than": ("is too large", "use less than {lt}"),
    "less_than_equal": ("is too large", "use at most {le}"),
    "string_too_short": ("is empty", "write something there"),
    "string_too_long": ("is too long", "use at most {max_length} characters"),
    "too_short": ("is empty", "list at least {min_length}"),
    "too_long": ("is too long", "list at most {max_length}"),
    "video_size": ("is not frames x height x width", 'write it like "49x480x720"'),
    "large_size": ("is too large", "use at most {most}"),
    "string_pattern_mismatch": (
        "is not a name",
        "use lower-case letters, digits and dashes, at most 63",
    ),
}


def _in_plain_words(detail: ErrorDetails, place: str) -> tuple[str, str]:
    """How a value is wrong, and what to use instead."""
    context = detail.get("ctx", {})
    if detail["type"] == "model_type":
        in_list = place.endswith("]")
        header = f"[[{place[: place.rindex('[')]}]]" if in_list else f"[{place}]"
        return "is not a table", f"write {header}"
    if detail["type"] == "literal_error":
        expected = str(context["expected"]).replace("'", '"')
        return "is not known", f"use one of {expected}" if " or " in expected else f"use {expected}"
    wrong, use = _PHRASES.get(detail["type"], ("is wrong", detail["msg"]))
    return wrong, use.format(**context)


def _place(where: str, location: tuple[int | str, ...]) -> str:
    """A place as this project writes it: lora.targets[0]."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return (where + "".join(parts)).removeprefix(".")


def shown_text(text: str) -> str:
    """A text as messages show it: cut when it is long."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _shown(value: object) -> object | None:
    """What a message repeats of a wrong value: nothing of tables and of endless numbers."""
    if isinstance(value, list | tuple):
        plain = all(isinstance(item, str | bool | int | float) for item in value)
        return value if plain and len(value) <= 8 and len(as_toml(value)) <= _SHOWN else None
    if isinstance(value, dict):
        return None
    if isinstance(value, int) and abs(value) > 10**_SHOWN:
        return None
    return shown_text(value) if isinstance(value, str) else value


def unknown_key(place: str, value: object, name: str, names: tuple[str, ...]) -> Problem:
    """The problem of a key that is not one of `names`; the closest of them is suggested."""
    closest = difflib.get_close_matches(name, names, n=1)
    use = f'did you mean "{closest[0]}"?' if closest else "known: " + ", ".join(names)
    return Problem(place, _shown(value), "is not a setting", use)
