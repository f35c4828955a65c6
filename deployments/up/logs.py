"""Logs of services: what a person should see of them, and a bound to their size."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from cogvx.terminal import printable
from tasks.clients.servers import LOG_BYTES

_IMPORTANT = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b")
_NOISE = ("This is a development server",)  # flask, of every moto
_MOST_LINES = 5  # of one log at a time
_MOST_CHARACTERS = 400


class LogTail:
    """One log from where it is now on."""

    def __init__(self, log: Path, *, most_bytes: int = LOG_BYTES) -> None:
        """What stands there already is not told; neither is a line before it is complete."""
        self.log = log
        self._most_bytes = most_bytes
        self._at = log.stat().st_size if log.is_file() else 0
        self._rest = b""

    def important(self) -> list[str]:
        """Warnings and errors that were added since; the last line may count those left out."""
        lines = [line for line in self._new_lines() if _is_important(line)]
        shown = [printable(line.strip())[:_MOST_CHARACTERS] for line in lines[:_MOST_LINES]]
        if len(lines) > len(shown):
            shown.append(f"... and {len(lines) - len(shown)} more in {self.log}")
        return shown

    def bound(self) -> None:
        """Put what is there aside when it is too much; the part put aside before is lost.

        Whoever writes goes on in the same file, which it opened for appending. What it writes
        between the copy and the cut is lost, too.

        Raises:
            OSError: There is no room for the copy, say; all of the log stays then.
        """
        if self.log.is_file() and self.log.stat().st_size > self._most_bytes:
            aside = older(self.log)
            aside.unlink(missing_ok=True)  # makes room
            try:
                shutil.copyfile(self.log, aside)
            except OSError:
                aside.unlink(missing_ok=True)
                raise
            with self.log.open("r+b") as file:
                file.truncate(0)

    def _new_lines(self) -> Sequence[str]:
        if not self.log.is_file():
            return []
        if self.log.stat().st_size < self._at:
            self._at, self._rest = 0, b""  # it was cut
        with self.log.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]


def _is_important(line: str) -> bool:
    return bool(_IMPORTANT.search(line)) and not any(known in line for known in _NOISE)


def older(log: Path) -> Path:
    """Where a log's older part is."""
    return log.with_suffix(".1.log")
