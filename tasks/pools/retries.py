"""Which failures are worth another try: those that say so, and no others."""

from typing import Any

from cogvx.errors import TransientError

RETRIES = 2
# A list, because Prefect raises on a tuple.
RETRY_DELAY_SECONDS: list[float] = [2, 10]


def is_transient(task: Any, task_run: Any, state: Any) -> bool:  # noqa: ARG001 - Prefect's form
    """For `retry_condition_fn`: a plain function, since Prefect takes a partial as "never"."""
    return isinstance(state.result(raise_on_failure=False), TransientError)
