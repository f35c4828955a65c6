"""What a process was given in secret is in no line, traceback or message, wherever it came from."""

import io
import logging
from collections.abc import Iterator

import pytest

from tasks.clients import secrets
from tasks.clients.secrets import cause_without_secrets, hold, watch_logs, without_secrets

TOKEN = "hf_PlantedTokenOfSomebody"
# Of no family: what captures lines for tests raises where others go on.
LIBRARY = logging.Logger("library")  # noqa: LOG001


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What somebody else's logger says, once logs are watched in a process that holds TOKEN."""
    monkeypatch.setattr(secrets, "_held", set())
    hold(f"{TOKEN}\n")
    made = logging.getLogRecordFactory()
    watch_logs()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    LIBRARY.addHandler(handler)
    yield stream
    LIBRARY.removeHandler(handler)
    logging.setLogRecordFactory(made)


def test_lines_are_logged_without_secrets(spoken: io.StringIO) -> None:
    LIBRARY.warning("%s said %r", "http://me:hunter2@host", {"token": TOKEN})
    LIBRARY.warning("%d of %d", 1, 2)
    assert spoken.getvalue() == "http://me:***@host said {'token': '***'}\n1 of 2\n"


def test_tracebacks_are_logged_without_secrets(spoken: io.StringIO) -> None:
    try:
        try:
            raise ValueError(f"Invalid header value b'Bearer {TOKEN}\\n'")
        except ValueError as error:
            raise RuntimeError("it was refused") from error
    except RuntimeError:
        LIBRARY.exception("the end")
    said = spoken.getvalue()
    assert "Invalid header value b'Bearer ***\\n'" in said
    assert said.endswith("RuntimeError: it was refused\n")
    assert TOKEN not in said


class Unprintable:
    def __str__(self) -> str:
        raise OSError("its file is away")


@pytest.mark.parametrize(
    ("line", "values"),
    [("%d", "one"), ("%(name)s", {"another": 1}), ("%s %s", "one"), ("%s", Unprintable())],
)
def test_a_line_that_does_not_fit_its_values_stops_nobody(
    spoken: io.StringIO,
    capsys: pytest.CaptureFixture[str],
    line: str,
    values: object,
) -> None:
    LIBRARY.warning(line, values)
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_cause_that_tells_a_secret_is_none(spoken: io.StringIO) -> None:
    plain = ValueError("all else")
    assert cause_without_secrets(plain) is plain
    assert cause_without_secrets(ValueError(f"Bearer {TOKEN}")) is None


def test_what_is_short_is_no_secret_to_search_for(spoken: io.StringIO) -> None:
    hold("abc")
    assert without_secrets("abcdef") == "abcdef"
