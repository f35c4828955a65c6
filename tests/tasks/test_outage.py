"""Which failure is the one before it again, and which another that people should hear of."""

import pytest

from tasks.caching.outage import is_as_before

S3 = "TransientError: s3://b at https://s3.example failed on arrivals/x"
HELD = "DataError: file:///clips held {} files and holds no videos any more; mount or restore it"
ASKED = "TransientError: Prefect's server could not announce the clips: HTTPStatusError(\"Server "


@pytest.mark.parametrize("told", ["Flow run encountered an exception: {}", "as before: {}"])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        (S3, S3),
        (HELD.format(4), HELD.format(1200)),
        (HELD.format(412), HELD.format(488)),
        ("TransientError: not reached after 3.2 s", "TransientError: not reached after 41 s"),
        ("TransientError: no answer in 20s", "TransientError: no answer in 30s"),
        (
            "IntegrityError: a/00000012.json is no list",
            "IntegrityError: a/00000013.json is no list",
        ),
        (
            "OSError: [Errno 28] No space left on device: '/s/.aside-0123456789ab-1.json'",
            "OSError: [Errno 28] No space left on device: '/s/.aside-fedcba987654-2.json'",
        ),
        (
            "TransientError: <Connection object at 0x7f01ab> 2026-01-02T03:04:05.678Z",
            "TransientError: <Connection object at 0x7f99cd> 2026-01-02T04:00:00Z",
        ),
        (
            "CogvxError: run 6a1f6a6e-2f7c-4a1e-9b39-000000000001 is gone",
            "CogvxError: run 11111111-2f7c-4a1e-9b39-0000000000ff is gone",
        ),
    ],
)
def test_what_only_times_counts_and_ids_tell_apart_is_one_reason(
    told: str, before: str, now: str
) -> None:
    assert is_as_before(now, told.format(before))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (f"{S3}: InternalError (HTTP 500)", f"{S3}: InternalError (HTTP 503)"),
        (f"{ASKED}error '500 Internal", f"{ASKED}error '502 Internal"),
        ("TransientError: HTTP Error 503: x", "TransientError: HTTP Error 500: x"),
        ("TransientError: got 503 Slow Down", "TransientError: got 500 Slow Down"),
        ("TransientError: status code: 429", "TransientError: status code: 408"),
        ("OSError: [Errno 5] x", "OSError: [Errno 116] x"),
        ("TransientError: it ended with exit code 1", "TransientError: it ended with exit code 75"),
        ("TransientError: ended by signal 9", "TransientError: ended by signal 15"),
        ("DataError: s3://b/clips1 is empty", "DataError: s3://b/clips2 is empty"),
        ("DataError: away; and more is wrong", "DataError: away"),
        ("DataError: away", "DataError: away; and more is wrong"),
        ("DataError: away", "TransientError: away"),
    ],
)
def test_another_code_or_more_words_are_another_reason(before: str, now: str) -> None:
    assert not is_as_before(now, f"Flow run encountered an exception: {before}")
    assert not is_as_before(now, f"as before: {before}")
