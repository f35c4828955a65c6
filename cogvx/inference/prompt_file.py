"""A file of prompts: one a line as plain text, or one JSON object a line with more of its own."""

import json
from pathlib import PurePath

from cogvx.errors import ConfigError, Problem
from cogvx.inference.job import PromptLine
from cogvx.section import parse_section
from cogvx.shapes import VideoSize

_MOST = 100_000


def parse_prompts(data: bytes, name: str) -> tuple[PromptLine, ...]:
    """The prompts of a file; empty lines are none.

    Args:
        data: What it holds, UTF-8.
        name: What it is called: names that end in .jsonl are JSON, all others plain text.

    Raises:
        ConfigError: With all problems, each with the number of its line.
    """
    try:
        lines = data.decode("utf-8-sig").split("\n")  # not at what JSON may hold as it is
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text: {error}") from error
    is_json = PurePath(name).suffix.lower() in (".jsonl", ".ndjson", ".json")
    found: list[PromptLine] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            value = _value(line, number, problems) if is_json else {"prompt": line.strip()}
            parsed, wrong = _parse(value, f"line {number}") if value is not None else (None, [])
            problems += wrong
            found += [parsed] if parsed else []
    if not problems and not found:
        raise ConfigError(f"{name} holds no prompt")
    if len(found) > _MOST:
        raise ConfigError(f"{name} holds {len(found)} prompts; use at most {_MOST} in one file")
    if problems:
        raise ConfigError(name, problems)
    return tuple(found)


def _value(line: str, number: int, problems: list[Problem]) -> object:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        problems.append(Problem(f"line {number}", None, f"is not JSON: {error}"))
        return None
    if not isinstance(value, dict):
        use = 'write {"prompt": "..."}'
        problems.append(Problem(f"line {number}", None, "is no JSON object", use))
        return None
    return value


def _parse(value: object, where: str) -> tuple[PromptLine | None, list[Problem]]:
    parsed, problems = parse_section(value, PromptLine, where)
    if not isinstance(parsed, PromptLine):
        return None, problems
    if not parsed.prompt.strip():
        problems.append(Problem(f"{where}.prompt", parsed.prompt, "is empty", "describe a video"))
    if parsed.size is not None:
        try:
            VideoSize.parse(parsed.size)
        except ValueError:
            wrong, use = "is not frames x height x width", 'write it like "49x480x720"'
            problems.append(Problem(f"{where}.size", parsed.size, wrong, use))
    return parsed, problems
