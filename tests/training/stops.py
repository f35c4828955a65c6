"""Asking a trainer in this process to stop, as a scheduler would."""

import os
import signal
from typing import Any

import pytest

from cogvx.objective.batch import Batch
from cogvx.training.journal import Journal
from cogvx.training.prefetch import Feed


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGTERM, twice, while it does its update number `step`."""
    record = Journal.record

    def and_signal(self: Journal, number: int, *rest: Any) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, number, *rest)

    monkeypatch.setattr(Journal, "record", and_signal)


def stop_within(step: int, micro: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGTERM when a micro-batch of update `step` was drawn.

    Both count from 0; the micro-batch itself is still computed.
    """
    take = Feed.take

    def and_signal(self: Feed, at: int, part: int) -> Batch:
        batch = take(self, at, part)
        if (at, part) == (step, micro):
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    monkeypatch.setattr(Feed, "take", and_signal)
