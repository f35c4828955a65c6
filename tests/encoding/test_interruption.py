"""Whoever is told to stop stops soon, and leaves whole records and nothing else."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.cache.records import unpack
from cogvx.data.manifest import Clip
from cogvx.store import LocalStore
from tests.encoding.benches import Bench


@pytest.fixture
def _as_in_a_flow() -> Iterator[None]:
    """A flow answers SIGTERM, like Ctrl-C, by raising in the main thread."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    yield
    signal.signal(signal.SIGTERM, before)


class Interrupting(LocalStore):
    """Somebody sends a signal to this process while the second record is being written."""

    def __init__(self, root: Path, number: signal.Signals) -> None:
        super().__init__(root)
        self.number = number
        self.created = 0

    def create(self, key: str, data: bytes) -> bool:
        self.created += 1
        if self.created == 2:
            os.kill(os.getpid(), self.number)
        return super().create(key, data)


@pytest.mark.usefixtures("_as_in_a_flow")
@pytest.mark.parametrize("kind", ["clips", "captions"])
@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_an_interrupted_worker_ends_and_leaves_only_whole_records(
    bench: Bench,
    clips: tuple[Clip, ...],
    tmp_path: Path,
    kind: str,
    number: signal.Signals,
    raised: type[BaseException],
) -> None:
    clip = clips[0]
    many = tuple(
        clip.model_copy(
            update={"crop": f"random-{seed}"} if kind == "clips" else {"caption": f"a {seed}"}
        )
        for seed in range(300)
    )
    plan, threads = bench.plan(many), threading.active_count()
    bench.store = Interrupting(tmp_path / "store", number)
    with pytest.raises(raised):
        bench.encode(plan)
    # One that was starting at that very moment is not waited for, but ends too.
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == threads
    records = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert 1 <= len(records) < 150
    for path in records:
        unpack(path.read_bytes(), path.stem)  # so nothing half written lies there either
    assert list(bench.work.rglob("*")) == []
