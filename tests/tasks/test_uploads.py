"""Uploads beside training: the newest only, one at a time, and never in the way."""

import logging
import threading
import time
from pathlib import Path

import pytest

from cogvx.errors import TransientError
from cogvx.runs.carry import checkpoint_prefix, latest_key
from cogvx.runs.folder import RunFolder
from cogvx.runs.saved import STATE_FILE, Pointer, folder_name
from cogvx.store import MemoryStore
from tasks.training.uploads import CheckpointUploads, uploading
from tests.runs.test_carry import RUN, save


class Gate(MemoryStore):
    """Takes a file only when it is let through; knows how many are on their way."""

    def __init__(self, *, away: int = 0) -> None:
        super().__init__()
        self.through = threading.Event()
        self.away, self.now, self.most = away, 0, 0
        self.begun = threading.Event()

    def upload(self, path: Path, key: str) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.begun.set()
        self.through.wait(20)
        self.now -= 1
        self.away -= 1
        if self.away >= 0:
            raise TransientError("the store is away")
        super().upload(path, key)

    def steps(self) -> set[str]:
        return {key.split("/")[3] for key in self.objects if key.endswith(STATE_FILE)}

    def pointer(self) -> int:
        return Pointer.model_validate_json(self.objects[latest_key(RUN)]).step


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_of_those_that_wait_only_the_newest_goes_and_nobody_waits(folder: RunFolder) -> None:
    store = Gate()
    save(folder, 4, 8, 12, 16)
    with uploading(folder, store, keep=9) as uploads:
        uploads.offer(folder_name(4))
        assert store.begun.wait(20)
        began = time.monotonic()
        for step in (8, 12, 16):
            uploads.offer(folder_name(step))
        assert time.monotonic() - began < 10  # whoever waited would for 20
        store.through.set()
    assert store.steps() == {folder_name(4), folder_name(16)}
    assert store.most == 1
    assert store.pointer() == 16


def test_the_newest_follows_at_the_end_though_nobody_offered_it(folder: RunFolder) -> None:
    store = Gate()
    store.through.set()

    def interrupted() -> None:
        with uploading(folder, store, keep=9) as uploads:
            save(folder, 4)
            uploads.offer(folder_name(4))
            save(folder, 7)  # as a trainer does that is asked to stop
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.pointer() == 7


def test_a_store_that_is_away_is_tried_again_with_the_next(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    store = Gate(away=1)
    store.through.set()
    with uploading(folder, store, keep=9) as uploads:
        save(folder, 4)
        uploads.offer(folder_name(4))
        while "is not in the store yet: the store is away" not in caplog.text:
            time.sleep(0.01)
        save(folder, 8)
        uploads.offer(folder_name(8))
    assert store.steps() == {folder_name(8)}


def test_the_end_does_not_wait_for_ever(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    store = Gate()
    save(folder, 4)
    uploads = CheckpointUploads(folder, store, keep=9)
    began = time.monotonic()
    uploads.close(0.3)
    assert time.monotonic() - began < 5
    assert f"{folder_name(4)} is only on this machine, in {folder.checkpoints}" in caplog.text
    store.through.set()
    while store.now:
        time.sleep(0.01)
    assert checkpoint_prefix(RUN, folder_name(4)) + STATE_FILE not in store.objects


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_logging_ended_is_followed_by_another(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rich ends the thread that writes to a terminal that is gone."""

    class Deaf(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit(1)

    handler = Deaf()
    monkeypatch.setattr(logging.getLogger("tasks.training.uploads"), "handlers", [handler])
    logging.getLogger("tasks.training.uploads").setLevel(logging.INFO)
    store = Gate()
    store.through.set()
    with uploading(folder, store, keep=9) as uploads:
        for step in (4, 8):
            save(folder, step)
            uploads.offer(folder_name(step))
    assert store.pointer() == 8


def test_nothing_to_upload_is_no_reason_to_wait(folder: RunFolder) -> None:
    with uploading(folder, Gate(), keep=9):
        pass
