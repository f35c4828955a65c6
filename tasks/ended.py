"""How an MLflow run ends: as training does, whose own error comes before anything of MLflow's."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Literal

from cogvx.errors import CogvxError
from cogvx.runs.lock import Held
from tasks.clients.launch import Stopped
from tasks.clients.runs import Runs

logger = logging.getLogger(__name__)

# Whoever waits for training's own error waits this long for MLflow.
_SECONDS_TO_FAIL = 10.0


@contextlib.contextmanager
def ending(runs: Runs, run_id: str) -> Iterator[None]:
    """End an MLflow run with the block: FINISHED, FAILED, or KILLED when it was interrupted.

    An error of the block goes on as it is; that MLflow could not be told is then a warning.

    Args:
        runs: Where MLflow's run is.
        run_id: MLflow's.

    Raises:
        TransientError: The block ended well, and MLflow does not answer.
        ConfigError: The block ended well, and MLflow refuses.
    """
    try:
        yield
    except Held:
        raise  # the run goes on, elsewhere
    except Stopped:
        _try_to_end(runs, run_id, "KILLED")  # it was ended from outside, and goes on
        raise
    except CogvxError:
        _try_to_end(runs, run_id, "FAILED")
        raise
    except BaseException:
        _try_to_end(runs, run_id, "KILLED")
        raise
    runs.end_run(run_id, "FINISHED")


def _try_to_end(runs: Runs, run_id: str, status: Literal["FAILED", "KILLED"]) -> None:
    """Tell MLflow within seconds, or say that it was not told."""
    refusals: list[CogvxError] = []

    def tell() -> None:
        try:
            runs.end_run(run_id, status)
        except CogvxError as error:
            refusals.append(error)

    # a daemon: the process does not wait for it either
    thread = threading.Thread(target=tell, name="end of run", daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_FAIL)
    why = "".join(map(str, refusals))
    if thread.is_alive():
        why = f"MLflow has not answered for {_SECONDS_TO_FAIL:.0f} s"
    if why:
        logger.warning("MLflow's run %s is not marked as %s: %s", run_id, status, why)
