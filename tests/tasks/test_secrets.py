"""What a process was given in secret is in no line, traceback or message, wherever it came from."""

import io
import logging
from collections.abc import Iterator

import pytest

from tasks.clients import secrets
from tasks.clients.secrets import cause_without_secrets, hold, watch_logs, without_secrets

TOKEN = "hf_PlantedTokenOfSomebody"


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What somebody else's logger says, once logs are watched in a process that holds TOKEN."""
    monkeypatch.setattr(secrets, "_held", set())
    hold(f"{TOKEN}\n")
    made = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    watch_logs()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("library")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logging.setLogRecordFactory(made)


def test_lines_are_logged_without_secrets(spoken: io.StringIO) -> None:
    logging.getLogger("library").warning("%s said %r", "http://me:hunter2@host", {"token": TOKEN})
    logging.getLogger("library").warning("%d of %d", 1, 2)
    assert spoken.getvalue() == "http://me:***@host said {'token': '***'}\n1 of 2\n"


def test_tracebacks_are_logged_without_secrets(spoken: io.StringIO) -> None:
    try:
        try:
            raise ValueError(f"Invalid header value b'Bearer {TOKEN}\\n'")
        except ValueError as error:
            raise RuntimeError("it was refused") from error
    except RuntimeError:
        logging.getLogger("library").exception("the end")
    said = spoken.getvalue()
    assert "Invalid header value b'Bearer ***\\n'" in said
    assert said.endswith("RuntimeError: it was refused\n")
    assert TOKEN not in said


def test_a_line_that_does_not_fit_its_values_is_left_to_logging(spoken: io.StringIO) -> None:
    record = logging.getLogger("library").makeRecord(
        "library", logging.INFO, "file", 1, "%d", ("one",), None
    )
    assert record.args == ("one",)


def test_watching_twice_is_watching_once(spoken: io.StringIO) -> None:
    factory = logging.getLogRecordFactory()
    watch_logs()
    assert logging.getLogRecordFactory() is factory


def test_a_cause_that_tells_a_secret_is_none(spoken: io.StringIO) -> None:
    plain = ValueError("all else")
    assert cause_without_secrets(plain) is plain
    assert cause_without_secrets(ValueError(f"Bearer {TOKEN}")) is None


def test_what_is_short_is_no_secret_to_search_for(spoken: io.StringIO) -> None:
    hold("abc")
    assert without_secrets("abcdef") == "abcdef"
