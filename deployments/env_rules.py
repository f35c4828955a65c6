"""Rules of the environment that a pool gives its runs: no secrets, and nothing a run would end at.

Prefect shows it to everybody who sees its pages. What is a setting of ours is read here as a run
would read it, which otherwise says at 03:00 what is wrong.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import BaseModel, ValidationError, create_model

from cogvx.errors import Problem
from cogvx.section import problems_of
from deployments.gpu_rules import RESERVED, SLOTS
from tasks.clients.secrets import is_secret, without_secrets
from tasks.settings import Settings

STOP = "COGVX_STOP_SECONDS"
_OURS = "COGVX_"
_ONE_HEART = ("is the same for every run, as [zombies] counts heartbeats", "remove it")
# What is decided elsewhere: what is wrong with it here, and what to do instead.
_FIXED = {
    STOP: ("has a setting of its own", "use stop_seconds"),
    RESERVED: ("has a setting of its own", "use gpus"),
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": _ONE_HEART,
    "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": _ONE_HEART,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": (
        "is set for every run, as an address may hold a password",
        "remove it",
    ),
    **{
        f"{_OURS}{stage}_DEPLOYMENT": (
            "is set for every run of retrain",
            "remove it, and use places in [[recipes]]",
        )
        for stage in ("ENCODE", "TRAIN", "GENERATE", "MEASURE", "PROMOTE")
    },
}
# As shells and containers alike take them.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A word that is given a value: name=value, "name": "value", name: value, --name value. What follows
# a colon and begins with a slash is the next of several folders.
_GIVEN = re.compile(
    r"""(?<![\w-])-*(\w[\w-]*)(?:\s*=|["']\s*[:=]|:(?!\s*/))\s*["']?[^\s"';&]"""
    r"""|(?<![\w-])--?(\w[\w-]*)\s+[^\s-]"""
)
_HEADER = re.compile(r"\bbearer\s+\S|\bauthorization[\"']?\s*[:=]", re.IGNORECASE)
# Addresses that let whoever knows them write to a channel: Slack's, Discord's, Teams', others'.
_WEBHOOK = re.compile(
    r"\bhooks\.[\w-]+\.|/services/T\w*/|://\S{0,400}(webhook|/hooks/|/bot[0-9]+:)", re.IGNORECASE
)
# Keys that are known by their beginning: AWS's, the hub's, GitHub's, GitLab's, Slack's; and files.
_KEY = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|\b(hf_|gh[oprsu]_|github_pat_|glpat-|xox[abeprs]-)\w{8}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
# What pydantic says of texts that it cannot read.
_UNREADABLE = {
    "float_parsing": ("is no number", "use a number"),
    "int_parsing": ("is no whole number", "use a whole number"),
    "bool_parsing": ("is neither true nor false", "use true or false"),
    "dict_type": ("is no table", 'write JSON, as {"gpu-train": 2.5}'),
}


def holds_secret(text: str) -> bool:
    """Whether a text holds what nobody should read: a login, a key, the address of a webhook."""
    if without_secrets(text) != text or any(one.search(text) for one in (_HEADER, _KEY, _WEBHOOK)):
        return True
    return any(_is_secrets(found[1] or found[2]) for found in _GIVEN.finditer(text))


def _is_secrets(name: str) -> bool:
    """Whether a word in a text is a secret's name; the file of a password is none."""
    words = name.replace("-", "_").split("_")
    return words[-1].upper() == "PWD" or is_secret(words[-1]) or is_secret("".join(words))


def env_problems(
    where: str, env: Mapping[str, str], limits: Mapping[str, int]
) -> Iterator[Problem]:
    """What the environment of a pool cannot hold; `limits` are slots by name."""
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            yield _misnamed(where, name)
            continue
        place = f"{where}.{name}"
        if is_secret(name) or holds_secret(value):
            yield secret_problem(place)
        elif "\0" in value:
            yield Problem(place, None, "holds a NUL, which ends a text", "remove it")
        elif (fixed := _FIXED.get(name.upper())) is not None:  # Prefect takes lower case, too
            yield Problem(place, value, *fixed)
        elif name.upper().startswith(_OURS):
            yield from _setting_problems(place, name, value, limits)


def secret_problem(where: str) -> Problem:
    """A secret that stands where everybody sees it; it is not repeated."""
    use = "put it into the workers' own environment"
    return Problem(where, None, "would be readable in Prefect's pages", use)


def _misnamed(where: str, name: str) -> Problem:
    """A name that is none; what follows an = may be a secret."""
    shown = name.partition("=")[0]
    is_shown = shown.isprintable() and bool(shown) and not holds_secret(name)
    place = f"{where}.{shown}" if is_shown else where
    wrong = "holds a name that no variable has" if place == where else "is no name of a variable"
    use = "use letters, digits and _, with no digit first"
    return Problem(place, None, wrong, use + ("; the value stands apart" if "=" in name else ""))


def _setting_problems(
    where: str, name: str, value: str, limits: Mapping[str, int]
) -> Iterator[Problem]:
    """What a run of ours would not know, or could not read."""
    field = name.removeprefix(_OURS).lower()
    if name != name.upper() or field not in Settings.model_fields:
        near = difflib.get_close_matches(name[len(_OURS) :].lower(), Settings.model_fields, n=3)
        meant = " or ".join(f"{_OURS}{each.upper()}" for each in near)
        use = f"did you mean {meant}?" if near else "remove it"
        yield Problem(where, value, "is not a setting", use)
    elif name == SLOTS and value not in limits:
        use = f"known: {', '.join(limits)}" if limits else "add it to [limits]"
        yield Problem(where, value, "is no limit of this catalog", use)
    elif value:  # an empty one is as none
        yield from _unreadable(where, field, value)


def _unreadable(where: str, field: str, value: str) -> Iterator[Problem]:
    said: object = value
    if isinstance(Settings.model_fields[field].default, dict):
        try:
            said = json.loads(value)
        except json.JSONDecodeError:
            yield Problem(where, value, "is no JSON", 'write it like {"gpu-train": 2.5}')
            return
    try:
        _shape().model_validate({field: said})
    except ValidationError as error:
        details = error.errors(include_url=False)
        for detail, found in zip(details, problems_of(error, "", ()), strict=True):
            wrong, use = _UNREADABLE.get(detail["type"], (found.wrong, found.use))
            inside = found.where.removeprefix(field)  # of a table, the key
            yield Problem(where + inside, found.value if inside else value, wrong, use)


@cache
def _shape() -> type[BaseModel]:
    """The settings as they may be, without the environment of this process."""
    fields = {name: (field.annotation, field) for name, field in Settings.model_fields.items()}
    shape: type[BaseModel] = create_model("_Shape", **fields)  # type: ignore[call-overload]
    return shape
