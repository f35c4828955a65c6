"""How a trainer ended: its result, its own error, or what can be said of one that left no word."""

import re
import signal
from dataclasses import dataclass

from cogvx.errors import CogvxError, TransientError, error_from_name
from cogvx.files import read_document
from cogvx.runs.folder import RunFolder, TrainOutcome

_LINES_SHOWN = 15
# How accelerate, torch's agent for several processes, and that agent itself tell of a signal.
_SIGNAL = re.compile(
    r"<Signals\.(SIG[A-Z]+)|got signal: (\d+)|Signal \d+ \((SIG[A-Z]+)\) received by PID (\d+)"
)
# When one process has ended the agent ends the others, whose signals then explain nothing.
_CLOSED = re.compile(
    r"(?:Sending process (\d+) closing signal|Unable to shutdown process (\d+) via)"
)
_CRASHES = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"}
# accelerate adds a traceback of its own, which only says that a process has ended
_LAUNCHER = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ ].*\n)*?[ ].*accelerate/commands/launch\.py",
    re.MULTILINE,
)


class Stopped(TransientError):  # noqa: N818 - a state of the run rather than a fault
    """Training was asked to stop, or its time is over; started again, it goes on from there."""


@dataclass(frozen=True)
class Ended:
    """The supervisor's exit code, and all that was printed in this start."""

    code: int
    printed: str


def outcome_of(folder: RunFolder, ended: Ended) -> TrainOutcome:
    """Turn an ended trainer into its result or its error.

    Raises:
        CogvxError: See `launch_training`.
    """
    if not folder.outcome.is_file():
        raise _unexplained(ended)
    outcome = read_document(folder.outcome, TrainOutcome)
    if outcome.status == "failed":
        unforeseen = outcome.error_kind == CogvxError.__name__
        # a process that aborts may do so for want of the one that failed, and wrote down why
        if unforeseen and _signal(ended) not in {None, "SIGABRT"}:
            raise _unexplained(ended)  # it failed for want of the one that was ended
        raise error_from_name(outcome.error_kind or "", outcome.error or _last_words(ended))
    if outcome.status == "stopped":
        raise Stopped(outcome.error or "training was stopped")
    return outcome


def require_well(folder: RunFolder, ended: Ended) -> None:
    """Of a machine that joined, which writes no outcome unless it is the one that fails.

    Raises:
        CogvxError: See `launch_training`.
    """
    if ended.code != 0:
        outcome_of(folder, ended)


def _unexplained(ended: Ended) -> CogvxError:
    """The error of a trainer that left no outcome: killed, or broken before it could begin."""
    words, name = _last_words(ended), _signal(ended)
    if name is None:
        return CogvxError(
            f"the trainer ended with code {ended.code} and no word. It printed:\n{words}"
        )
    if name in _CRASHES:
        return CogvxError(
            f"the trainer crashed with {name}; started again, it goes on from its newest "
            f"checkpoint, but may crash again. It last printed:\n{words}"
        )
    why = ", as by a machine that is out of memory" if name == "SIGKILL" else ""
    return TransientError(
        f"the trainer was ended by {name}{why}; started again, it goes on from its newest "
        f"checkpoint. It last printed:\n{words}"
    )


def _signal(ended: Ended) -> str | None:
    """The signal that ended the trainer, if one did; torch's agent's own do not count."""
    if ended.code > 128:
        return signal.Signals(ended.code - 128).name
    closed = {pid for found in _CLOSED.findall(ended.printed) for pid in found}
    signals = [
        alone or several or signal.Signals(int(agent)).name
        for alone, agent, several, pid in _SIGNAL.findall(ended.printed)
        if not pid or pid not in closed
    ]
    return signals[-1] if signals else None


def _last_words(ended: Ended) -> str:
    """The last lines of the trainer itself."""
    launchers = list(_LAUNCHER.finditer(ended.printed))
    own = ended.printed[: launchers[-1].start()] if launchers else ended.printed
    return "\n".join(own.splitlines()[-_LINES_SHOWN:])
