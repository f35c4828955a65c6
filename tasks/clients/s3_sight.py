"""Objects that a server does not show yet: some take a while to see what was put."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import ClientError

from cogvx.errors import TransientError
from tasks.clients.s3_refusals import cause_of, is_absent

Result = TypeVar("Result")

_SETTLING_SECONDS = 60.0
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.1


class Sight:
    """Keys that this process knows to be at its server, because it was told so a short while ago.

    Memory holds the keys of the last minute.
    """

    def __init__(self, place: str) -> None:
        """`place` names the store and its endpoint, without secrets."""
        self._place = place
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, key: str) -> None:
        """Remember a key that was just put or refused because it is there."""
        now = time.monotonic()
        with self._lock:
            self._seen.pop(key, None)
            self._seen[key] = now  # comes last, so the dictionary stays in the order of time
            while now - next(iter(self._seen.values())) > _SETTLING_SECONDS:
                del self._seen[next(iter(self._seen))]

    def discard(self, key: str) -> None:
        """Forget a key that was deleted."""
        with self._lock:
            self._seen.pop(key, None)

    def wait_for(self, key: str, ask: Callable[[], Result]) -> Result:
        """Ask, and if the key should be there, ask until it is seen.

        Raises:
            ClientError: As `ask` raises it; absence only of a key that is not known to be there.
            TransientError: The key should be there and is not seen for seconds.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return ask()
            except ClientError as error:
                if not is_absent(error) or not self._knows(key):
                    raise
                if time.monotonic() > deadline:
                    raise TransientError(
                        f"{self._place} does not show {key}, which was put there a moment ago"
                    ) from cause_of(error)
            time.sleep(_PAUSE_SECONDS)

    def _knows(self, key: str) -> bool:
        with self._lock:
            seen = self._seen.get(key)
        return seen is not None and time.monotonic() - seen < _SETTLING_SECONDS
