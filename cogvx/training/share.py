"""What the first process finds, handed to all: other machines may not have it."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from cogvx.errors import CogvxError

FoundT = TypeVar("FoundT")


def from_first(accelerator: Accelerator, find: Callable[[], FoundT]) -> FoundT:
    """Let the first process find something, and give it to all; every process calls this.

    Args:
        accelerator: Of this process.
        find: Called in the first process only. What it returns is sent whole.

    Raises:
        CogvxError: What `find` raised, in every process, so that none waits for another.
    """
    parcel: list[tuple[FoundT | None, CogvxError | None]] = [(None, None)]
    if accelerator.is_main_process:
        try:
            parcel = [(find(), None)]
        except CogvxError as error:
            parcel = [(None, error)]
    broadcast_object_list(parcel)
    found, refusal = parcel[0]
    if refusal is not None:
        raise refusal
    return found  # type: ignore[return-value]  # None only where `find` returns it
