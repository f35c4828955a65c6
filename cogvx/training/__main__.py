"""`accelerate launch -m cogvx.training RUN_DIR`: train or go on training the run in a folder.

What happened is in the folder: events.jsonl while it runs, outcome.json at the end, the adapter
when it has completed. Run again, it does nothing; killed anywhere and run again, it finishes with
the bits it would have had. It exits with 0, with the code of its error's kind, or with 143 when it
was asked to stop, or its hours were over, and it has saved a checkpoint: outcome.json says which.
While another trainer works in the folder, it ends with 75 and touches nothing.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from cogvx.errors import CogvxError, ConfigError
from cogvx.runs.disk import explained
from cogvx.runs.folder import RunFolder
from cogvx.runs.lock import hold
from cogvx.training.attempt import Attempt
from cogvx.training.share import from_first
from cogvx.training.stop import Stop


def run_process(arguments: Sequence[str]) -> NoReturn:
    """`main` as a process of its own, which ends without taking itself apart.

    Freeing a model that is shared over gloo may wait for ever: a thread of the group wants Python's
    lock to let go of a tensor, and whoever frees the model holds it and waits for the thread.
    """
    code, kept = 1, list[Attempt]()
    try:
        code = main(arguments, kept)
    finally:
        with contextlib.suppress(OSError):  # nobody may be listening any more
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def main(arguments: Sequence[str], kept: list[Attempt] | None = None) -> int:
    """Train the run in the one folder that is named; returns the exit code.

    `kept` gets what must not be freed before the process ends.
    """
    if len(arguments) != 1:
        _say("usage: accelerate launch -m cogvx.training RUN_DIR")
        return ConfigError.exit_code
    folder = RunFolder(Path(arguments[0]))
    stop = Stop()
    stop.listen()
    try:
        with explained(folder):
            spec = folder.read_spec()
            if folder.completed() is not None:
                return 0
        stop.limit(spec.recipe.train.max_hours)
        accelerator = _accelerator()
        with (
            _alone(folder, accelerator),
            Attempt(folder, spec) as attempt,
            explained(folder),
            attempt.short_of_memory(accelerator.device),
        ):
            if kept is not None:
                kept.append(attempt)
            return attempt.run(accelerator, stop, say=_say)
    except CogvxError as error:
        _say(f"{type(error).__name__}: {error}")
        return error.exit_code


def _accelerator() -> Accelerator:
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        # the same bits from the same run folder; where an operation cannot promise it, it warns
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # nothing in the transformer is a running statistic, so buffers need no sending around
    no_buffers = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[no_buffers])


@contextlib.contextmanager
def _alone(folder: RunFolder, accelerator: Accelerator) -> Iterator[None]:
    """Keep other trainers out of the folder; all processes raise what the first one was told."""
    with contextlib.ExitStack() as held:
        from_first(accelerator, lambda: held.enter_context(hold(folder.trainer_lock)))
        yield


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        sys.stderr.write(f"{sentence}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    run_process(sys.argv[1:])
