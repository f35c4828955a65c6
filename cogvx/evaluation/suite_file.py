"""Suites as files: TOML, YAML and JSON hold the same document, so the same suite has one digest."""

import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cogvx.errors import ConfigError
from cogvx.files import write_bytes
from cogvx.section import read_toml

_MOST_BYTES = 16 << 20


def read_suite_file(path: Path) -> dict[str, Any]:
    """The document of a suite, by the end of its name; what is no YAML or JSON is TOML.

    Keys that stand twice are refused, as TOML does, and so are YAML's references: a short text with
    them means an endless document.

    Raises:
        ConfigError: There is no such file, or it cannot be read as what its name says.
    """
    kind = path.suffix.lower()
    if kind not in _READERS:
        return read_toml(path)
    document = _parsed(path, _READERS[kind])
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no suite but a {type(document).__name__}")
    return document


def read_json(path: Path) -> Any:
    """Any JSON document; a key that stands twice is refused.

    Raises:
        ConfigError: There is no such file, or it is not JSON.
    """
    return _parsed(path, _json)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends; empty ones at the end of the file are none.

    Raises:
        ConfigError: There is no such file, or it is not UTF-8.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def write_suite_file(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document that JSON could hold, in the form that the name ends in.

    Raises:
        ConfigError: The name ends in nothing that is known.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise ConfigError(f"{path} does not end in one of {', '.join(_WRITERS)}")
    write_bytes(path, write(document).encode())


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's plain values only, each key once and nothing by reference."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            wrong = "a reference (*name) is not allowed; write the value out"
            raise yaml.composer.ComposerError(None, None, wrong, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - PyYAML's own
    ) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                wrong = f'"{name}" stands there twice'
                raise yaml.constructor.ConstructorError(None, None, wrong, node.start_mark)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        for key in found:
            if not isinstance(key, str):
                wrong = f"the key {key!r} is no name; put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, wrong, node.start_mark)
        return found


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # noqa: S506 - it is a SafeLoader


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'"{twice}" stands there twice')
    return document


_READERS: dict[str, Callable[[str], Any]] = {".yaml": _yaml, ".yml": _yaml, ".json": _json}


def read_text(path: Path) -> str:
    """A text file of a person, UTF-8, with any ends of lines.

    Raises:
        ConfigError: There is no such file, it is not UTF-8, or far too large.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(
                f"{path} has more than {_MOST_BYTES >> 20} MiB; it is no list of texts"
            )
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder; name a file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"{str(path)!r} cannot be the name of a file") from error


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    form = "JSON" if parse is _json else "YAML"
    try:
        return parse(read_text(path))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as {form}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} cannot be read as {form}: it is nested too deeply") from error


def _to_toml(document: Mapping[str, Any]) -> str:
    return "\n".join(_toml_lines(document, "")).strip() + "\n"


def _toml_lines(table: Mapping[str, Any], name: str) -> list[str]:
    """Plain values first, then tables, then lists of tables, each below its heading."""
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if not _is_table(value)]
    for key, value in table.items():
        place = f"{name}.{key}" if name else key
        if isinstance(value, Mapping):
            lines += ["", f"[{place}]", *_toml_lines(value, place)]
        elif _is_table(value):
            for entry in value:
                lines += ["", f"[[{place}]]", *_toml_lines(entry, place)]
    return lines


def _is_table(value: object) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Mapping)


def _toml(value: object) -> str:
    """JSON's plain values are TOML's, but for a character that TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _to_json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _to_yaml(document: Mapping[str, Any]) -> str:
    text: str = yaml.dump(
        dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20
    )
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes no references, as none are read."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's own
        return True


def _text_node(dumper: _Dumper, text: str) -> yaml.Node:
    """Only in double quotes do all characters come back, such as other ends of lines."""
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)

_WRITERS = {".toml": _to_toml, ".yaml": _to_yaml, ".yml": _to_yaml, ".json": _to_json}
