"""Children that failed are named with their reasons; the error is of their kind if they agree."""

import logging
import time

import pytest

from cogvx.errors import CogvxError, ConfigError, DataError, TransientError
from tasks.pages.progress import Progress
from tasks.pools.children import Child, Ended
from tasks.pools.dispatch import require_all


def ended(*errors: BaseException | None) -> tuple[Ended[int], ...]:
    return tuple(
        Ended(
            Child(name=f"shard {number}", key="k", parameters={}),
            seconds=1.0,
            report=None if error else number,
            error=error,
        )
        for number, error in enumerate(errors, start=1)
    )


def test_reports_come_in_the_order_of_the_children() -> None:
    assert require_all(ended(None, None, None)) == (1, 2, 3)
    assert require_all(()) == ()


def test_failed_children_are_all_named_with_their_reasons() -> None:
    with pytest.raises(TransientError) as caught:
        require_all(ended(TransientError("no answer"), None, TransientError("too slow")))
    assert str(caught.value).splitlines() == [
        "2 of 3 failed; what was made is kept, run again for the rest",
        "  - shard 1: no answer",
        "  - shard 3: too slow",
    ]


def test_children_that_failed_for_several_reasons_are_not_blamed_on_one() -> None:
    with pytest.raises(CogvxError) as caught:
        require_all(ended(TransientError("no answer"), DataError("not finite")))
    assert type(caught.value) is CogvxError


def test_a_bug_keeps_its_type_and_its_trace() -> None:
    bug = ZeroDivisionError("division by zero")
    with pytest.raises(CogvxError, match="shard 2: ZeroDivisionError: division") as caught:
        require_all(ended(None, bug))
    assert caught.value.__cause__ is bug


@pytest.mark.parametrize("error", [ConfigError("wrong"), ZeroDivisionError("bug")])
def test_the_error_of_an_only_child_is_raised_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        require_all(ended(error))
    assert caught.value is error


def test_progress_tells_pace_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.progress")
    caplog.set_level(logging.INFO, logger.name)
    progress = Progress("encode clips", "clips", logger)
    progress(0, 4)
    time.sleep(0.2)
    progress(4, 4)
    (line,) = caplog.messages
    assert line.startswith("encode clips: 4/4 clips, ")
    pace = float(line.removesuffix(" clips/s").rpartition(" ")[2])
    assert 1 <= pace <= 20
