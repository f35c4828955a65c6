"""Flows that stand in for work, in a module that a worker's run can import."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from prefect import flow


@flow(name="nap", flow_run_name="nap")
def nap(seconds: float = 0.0, note: str = "") -> None:
    """Rest; stopped while it does, it has a child save something, as training does."""
    if not seconds:
        return
    child = subprocess.Popen([sys.executable, __file__, note])
    try:
        time.sleep(seconds)
    finally:
        child.terminate()
        child.wait()


@flow(name="household", flow_run_name="household")
def household() -> None:
    """Has a child."""
    nap()


@flow(name="mishap", flow_run_name="mishap")
def mishap() -> None:
    """Fails."""
    raise ValueError("it was to fail")


def _work(folder: Path) -> None:
    """Takes a moment to save when it is asked to stop."""

    def save(*_: object) -> None:
        time.sleep(1)
        (folder / "saved").touch()
        sys.exit()

    signal.signal(signal.SIGTERM, save)
    (folder / "begun").touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
