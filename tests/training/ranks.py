"""Real processes of the trainer, as accelerate's launcher would start them, for a fork each."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cogvx.runs.folder import RunFolder
from tests.fixtures.forks import Forks, Job

TRAINER = "tests.fixtures.forks:call_trainer"
_POLL_SECONDS = 0.002
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Ranks:
    """The processes of one start, first rank first."""

    jobs: tuple[Job, ...]

    def send(self, number: signal.Signals, *, to: slice = slice(None)) -> None:
        for job in self.jobs[to]:
            with suppress(ProcessLookupError):
                os.kill(job.pid, number)

    def wait(self) -> tuple[int, ...]:
        return tuple(job.wait() for job in self.jobs)

    def succeed(self) -> None:
        for job in self.jobs:
            job.succeed()

    def printed(self) -> str:
        """The ends of what they wrote; one that was killed at once wrote nothing."""
        outputs = [job.output for job in self.jobs if job.output.is_file()]
        return "\n".join(output.read_text()[-3000:] for output in outputs)


def start(forks: Forks, call: str, *arguments: Any, processes: int, cwd: Path) -> Ranks:
    """Call a function in so many processes that find each other as torchrun's do."""
    environment = dict(os.environ)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Ranks(
        tuple(
            forks.start(
                call,
                *arguments,
                environment={**environment, **_place(rank, processes, port)},
                cwd=cwd,
            )
            for rank in range(processes)
        )
    )


def _place(rank: int, processes: int, port: int) -> Mapping[str, str]:
    if processes == 1:
        return {}
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }


def until(happened: Callable[[], object], what: str) -> None:
    """Look often, since what is waited for may last a few milliseconds."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(_POLL_SECONDS)


def newest_step(root: Path) -> int:
    """How far the events of a run tell that it is, undone steps included."""
    path = RunFolder(root).events
    lines = path.read_text().splitlines() if path.is_file() else []
    steps = [json.loads(line).get("step", 0) for line in lines if line.endswith("}")]
    return max(steps, default=0)


def share(root: str, out: str) -> None:
    """One process's share of a run: what it draws, its gradient, three updates; written down.

    For `start`. The gradient is that of update 0 with every weight moved off its start, where B is
    zero and A has none.
    """
    import torch
    from accelerate import Accelerator

    from cogvx.model.lora import lora_state
    from cogvx.training.loop import accumulate, update
    from cogvx.training.prepare import prepare
    from cogvx.training.stop import Stop

    folder, accelerator = RunFolder(Path(root)), Accelerator(cpu=True)
    spec = folder.read_spec()
    trainer = prepare(folder, spec, accelerator=accelerator, stop=Stop())
    learner, rank = trainer.learner, accelerator.process_index
    found: dict[str, torch.Tensor] = {"random/before": torch.get_rng_state()}
    for step in range(3):
        for micro in range(spec.recipe.train.accumulation):
            batch = trainer.journal.watch.batches.draw(
                step, micro=micro, rank=rank, device=torch.device("cpu")
            )
            found[f"noise/{step}/{micro}"] = batch.noise_bfchw
            found[f"timesteps/{step}/{micro}"] = batch.timesteps_b
    with learner.feed:
        start = lora_state(trainer.transformer)
        for parameter in learner.parameters:
            parameter.data += 0.01
        accumulate(learner, 0)
        for name, parameter in zip(start, learner.parameters, strict=True):
            assert parameter.grad is not None
            found[f"gradient/{name}"] = parameter.grad.clone()
            parameter.data -= 0.01
            parameter.data.copy_(start[name])
            parameter.grad = None
        for step in range(3):
            accumulate(learner, step)
            update(learner, step)
    found["random/after"] = torch.get_rng_state()
    found |= {f"weight/{name}": tensor for name, tensor in lora_state(trainer.transformer).items()}
    save_file(found, Path(out) / f"rank{rank}.safetensors")
    accelerator.end_training()


def stopped_within(root: str, rank: str, step: int, micro: int) -> None:
    """The trainer; one rank gets a SIGTERM in the middle of an update; for `start`."""
    import pytest

    from tests.fixtures.forks import call_trainer
    from tests.training.stops import stop_within

    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("RANK") == rank:
            stop_within(step, micro, patch)
        call_trainer(root)


def agree(out: str) -> None:
    """What each process says when different ones are asked to stop; for `start`."""
    from accelerate import Accelerator

    from cogvx.training.stop import Stop

    accelerator, answers = Accelerator(cpu=True), []
    for late, asked in ((None, None), (1, None), (1, 0), (0, 0)):
        stop = Stop()
        stop.join(accelerator.num_processes)
        if accelerator.process_index == late:
            stop.limit(1e-9)
        if accelerator.process_index == asked:
            stop.ask()
        answers.append((stop.agreed(), stop.reason))
    path = Path(out) / f"rank{accelerator.process_index}.json"
    path.write_text(json.dumps(answers))
    accelerator.end_training()
