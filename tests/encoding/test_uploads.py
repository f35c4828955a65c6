"""Every upload is heard of; what fails is raised at once, with its name."""

import threading
import time

import pytest

from cogvx.encoding.uploads import Uploads, uploading
from cogvx.errors import DataError, IntegrityError, TransientError
from cogvx.store import MemoryStore


class SlowStore(MemoryStore):
    """Counts how many records are on their way at once."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = self.most = 0
        self.lock = threading.Lock()

    def create(self, key: str, data: bytes) -> bool:
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.002)
        with self.lock:
            self.at_once -= 1
        if data == b"bad":
            raise TransientError("the store is away")
        return super().create(key, data)


def running() -> int:
    return sum(thread.name.startswith("upload") for thread in threading.enumerate())


def put(uploads: Uploads, number: int, data: bytes = b"good") -> None:
    uploads.put(f"clip {number}", [(f"records/{number}", lambda: data)])


def put_and_raise(store: MemoryStore, error: BaseException) -> None:
    with uploading(store, lambda: None) as uploads:
        for number in range(12):
            put(uploads, number)
        raise error


def test_everything_is_stored_and_counted_when_the_block_ends() -> None:
    store, stored = SlowStore(), []
    with uploading(store, lambda: stored.append(threading.current_thread())) as uploads:
        for number in range(60):
            put(uploads, number)
    assert len(store.objects) == len(stored) == 60
    assert set(stored) == {threading.current_thread()}
    assert 1 < store.most <= 8
    assert running() == 0


def test_what_is_packed_waits_in_bounded_number() -> None:
    store, gate, packed = MemoryStore(), threading.Event(), []

    def pack() -> bytes:
        packed.append(1)
        gate.wait(60)
        return b"data"

    handed = []

    def hand_over() -> None:
        with uploading(store, lambda: None) as uploads:
            for number in range(40):
                uploads.put(str(number), [(str(number), pack)])
                handed.append(number)

    thread = threading.Thread(target=hand_over)
    thread.start()
    time.sleep(0.2)
    assert len(handed) <= 16
    gate.set()
    thread.join(60)
    assert len(store.objects) == 40


def test_a_failure_is_raised_soon_under_its_name_and_the_rest_is_dropped() -> None:
    handed = []

    def hand_over() -> None:
        with uploading(SlowStore(), lambda: None) as uploads:
            for number in range(1000):
                put(uploads, number, b"bad" if number == 5 else b"good")
                handed.append(number)

    with pytest.raises(TransientError, match=r"^clip 5: the store is away$"):
        hand_over()
    assert len(handed) < 5 + 2 * 16
    assert running() == 0


def test_a_failure_of_the_last_one_is_heard_too() -> None:
    with pytest.raises(TransientError), uploading(SlowStore(), lambda: None) as uploads:
        put(uploads, 1, b"bad")


def test_when_the_block_fails_what_was_handed_over_is_kept() -> None:
    store = SlowStore()
    with pytest.raises(DataError):
        put_and_raise(store, DataError("another clip is broken"))
    assert len(store.objects) == 12
    assert running() == 0


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_no_thread_and_no_torn_record(
    interruption: type[BaseException],
) -> None:
    store = SlowStore()
    with pytest.raises(interruption):
        put_and_raise(store, interruption())
    assert running() == 0
    assert set(store.objects.values()) <= {b"good"}


def test_the_kind_of_an_error_survives_the_naming() -> None:
    class Lost(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            raise IntegrityError("it is gone")

    with pytest.raises(IntegrityError, match="clip 1: it is"), uploading(Lost(), print) as uploads:
        put(uploads, 1)
