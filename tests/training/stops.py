"""Asking a trainer in this process to stop, as a scheduler would."""

import os
import signal
from typing import Any

import pytest

from cogvx.training.journal import Journal


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGTERM, twice, while it does its update number `step`."""
    record = Journal.record

    def and_signal(self: Journal, number: int, *rest: Any) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, number, *rest)

    monkeypatch.setattr(Journal, "record", and_signal)
