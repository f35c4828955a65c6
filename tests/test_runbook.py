"""Whoever is paged searches the runbook for what is printed: so each message of it is in a source.

Ours are looked up in this project, the others where the page says: `message` (Prefect). Three dots
stand for what differs from time to time.
"""

import ast
import errno
import importlib.util
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GAP = "..."
# Where others' words stand; the CUDA build of torch is not needed for its headers.
PLACES = {
    "Prefect": ("prefect", "**/*.py"),
    "anyio": ("anyio", "**/*.py"),
    "torch": ("torch", "include/torch/csrc/distributed/c10d/*.hpp"),
}
LINUX = {os.strerror(number) for number in errno.errorcode}
# One text literal after another is one text; what is put in is a gap.
_JOIN = re.compile(r"[\"']\s*\\?\n\s*[rbuf]{0,2}[\"']")
_FIELD = re.compile(r"\{[^{}\n]*\}|%[sdgfr.0-9]+")
_CODE = re.compile(r"`([^`]+)`(?: \((\w+)\))?")


def rows() -> Iterator[tuple[str, ...]]:
    """Symptom, cause and action of every failure."""
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    tables = page[page.index("## Failures") : page.index("## The store")]
    for line in tables.splitlines():
        cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        if cells and cells[0] not in ("symptom", "---"):
            yield cells


def quoted(symptom: str) -> list[tuple[str, str]]:
    """Messages, each with whose it is; a variable, a file or a command that is named is none."""
    found = [(message, source or "cogvx") for message, source in _CODE.findall(symptom)]
    return [
        (message, source)
        for message, source in found
        if source != "cogvx" or ("cogvx " not in message[:6] and re.search(r"[a-z] ", message))
    ]


MESSAGES = [each for symptom, *_ in rows() for each in quoted(symptom)]


def plain(text: str) -> str:
    return " ".join(_FIELD.sub(GAP, text).split())


@cache
def our_texts() -> dict[Path, str]:
    """All text literals of each module, what is put into them as gaps."""
    found = {}
    for part in ("cogvx", "tasks", "flows", "deployments"):
        for path in (ROOT / part).rglob("*.py"):
            found[path] = "\n".join(map(plain, literals(ast.parse(path.read_text("utf-8")))))
    return found


def literals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def texts_of(source: str) -> dict[Path, str]:
    if source == "cogvx":
        return our_texts()
    package, files = PLACES[source]
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    found = Path(spec.origin).parent.glob(files)
    return {path: plain(_JOIN.sub("", path.read_text("utf-8"))) for path in found}


def is_said_in(text: str, message: str) -> bool:
    """Whether a message can be put together from texts of one module, none shorter than a name."""
    return all(is_made_of(text, part.split()) for part in message.split(GAP))


def is_made_of(text: str, words: list[str]) -> bool:
    """In one piece, or in several of which each is longer than a word that stands anywhere."""
    if bare(" ".join(words)) in text:
        return True
    while words := words[next((n for n, word in enumerate(words) if bare(word)), len(words)) :]:
        taken = len(words)
        while taken and not (len(piece := bare(" ".join(words[:taken]))) > 5 and piece in text):
            taken -= 1
        if not taken:
            return False
        words = words[taken:]
    return True


def bare(text: str) -> str:
    return text.strip(" =:;,.\"'()")


@pytest.mark.parametrize(("message", "source"), MESSAGES)
def test_what_the_runbook_quotes_is_printed(message: str, source: str) -> None:
    if source == "Linux":
        assert message in LINUX
        return
    found = any(is_said_in(text, message) for text in texts_of(source).values())
    assert found, f"no module of {source} says {message!r}; was it changed?"


@pytest.mark.parametrize(
    "message",
    ["no worker polls work pool ...; begin one", "its run was eaten", "a sentence of nobody's"],
)
def test_a_message_that_was_changed_is_noticed(message: str) -> None:
    assert not any(is_said_in(text, message) for text in our_texts().values())


def test_the_runbook_has_symptom_cause_and_action_of_many_failures() -> None:
    found = list(rows())
    assert {len(cells) for cells in found} == {3}
    assert all(cell for cells in found for cell in cells)
    assert sum(bool(quoted(symptom)) for symptom, *_ in found) >= 50
    assert len({message for message, _ in MESSAGES}) == len(MESSAGES)
