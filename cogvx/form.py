"""A document's schema as a form shows it: a label, one sentence and the order of every field.

Prefect draws a deployment's form from this schema and sends it with every page. So a field has its
title alone, or its name and the first sentence of what docs/recipes.md tells in full.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

# Limits are told, all at once, when the document is read. Of kinds and choices a form shows itself
# what is wrong. A default of a section is that of its fields.
_UNSHOWN = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "pattern",
    }
)
_SENTENCE = re.compile(r"^(.*?[.!?])(?:\s|$)")


def label_of(name: str) -> str:
    """The label of a field that has no title: heldout_share is "Heldout share"."""
    return name.replace("_", " ").capitalize()


def in_form(title: str, description: str | None = None) -> Any:
    """An annotation of a flow's parameter: what its form says of it.

    Without a description it is that of the parameter's kind. For parameters alone: Prefect sets
    their title itself, to their name, over one that `Field(title=...)` gives.
    """
    said = {"title": title} | ({} if description is None else {"description": description})
    return Field(json_schema_extra={**said})


def form_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of one section as a form shows it.

    The position stands beside each field, as a database may keep the fields in another order.
    """
    fields = schema.get("properties", {})
    shown = {
        name: {"position": place, **_field(name, field)}
        for place, (name, field) in enumerate(fields.items())
    }
    # Its own title is the name of a class; where it is used it has another one.
    rest = {key: value for key, value in _short(schema).items() if key != "title"}
    return {**rest, "properties": shown} if fields else dict(schema)


def _field(name: str, field: Mapping[str, Any]) -> dict[str, Any]:
    """A field; a text or number that may be nothing says its plain kind, as an empty box is none.

    Prefect takes null for it, too. A choice or a switch is never empty, so it stays beside null.
    """
    some = [_short(kind) for kind in field.get("anyOf", ()) if kind.get("type") != "null"]
    plain = dict(field)
    if len(some) == 1 and _can_be_empty(some[0]):
        plain = {**some[0], **field}
        del plain["anyOf"], plain["default"]
    if "$ref" in plain or plain.get("title") != label_of(name):
        plain.pop("description", None)
    if "$ref" in plain:
        plain.pop("default", None)
    return _short(plain)


def _can_be_empty(kind: Mapping[str, Any]) -> bool:
    return kind.get("type") in ("string", "integer", "number") and "enum" not in kind


def _short(part: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in part.items() if key not in _UNSHOWN}
    text = " ".join(part.get("description", "").split())
    if text:
        sentence = _SENTENCE.match(text)
        kept["description"] = (sentence[1] if sentence else text).removesuffix(".")
    return kept
