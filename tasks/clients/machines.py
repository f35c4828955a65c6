"""Which of the machines that train one run together this is.

Every machine has a run folder of its own, filled from the store. The first one writes the events,
the checkpoints and the adapter, and hands its newest checkpoint to the others when they have met.
"""

import logging
import platform
from dataclasses import dataclass
from typing import Self

from cogvx.errors import ConfigError, Problem
from tasks.clients.gpus import gpus
from tasks.settings import Settings, visible_gpus

logger = logging.getLogger(__name__)

_ANY_FREE_PORT = 0


@dataclass(frozen=True)
class Machines:
    """How many there are, the number of this one from 0, and where the first one listens."""

    count: int = 1
    rank: int = 0
    address: str = ""
    port: int = _ANY_FREE_PORT

    def share(self, processes: int) -> int:
        """How many of a run's processes are started on each machine."""
        return processes // self.count

    @property
    def is_first(self) -> bool:
        """Whether this machine leads; a machine that is alone does."""
        return self.rank == 0

    @classmethod
    def of(cls, here: Settings, processes: int) -> Self:
        """As this machine's settings say.

        Raises:
            ConfigError: See `check`.
        """
        if here.machines == 1 and here.machine_rank == 0:
            return cls()
        found = cls(here.machines, here.machine_rank, here.main_address, here.main_port)
        found.check(processes)
        return found

    def check(self, processes: int) -> None:
        """Refuse what cannot meet, or cannot share so many processes.

        Raises:
            ConfigError: With every problem.
        """
        problems = []
        if self.rank >= self.count:
            numbers = f"0 to {self.count - 1}" if self.count > 1 else "0"
            problems.append(
                Problem(
                    "COGVX_MACHINE_RANK",
                    self.rank,
                    f"is no number of COGVX_MACHINES = {self.count}",
                    f"use {numbers}",
                )
            )
        if self.count > 1 and not self.address:
            wrong = f"is empty, but COGVX_MACHINES = {self.count}"
            use = "use a name or address of the first machine, the same on all of them"
            problems.append(Problem("COGVX_MAIN_ADDRESS", "", wrong, use))
        if processes % self.count:
            below, above = processes // self.count, processes // self.count + 1
            numbers = " or ".join(str(each * self.count) for each in (below, above) if each)
            wrong = f"cannot be shared out evenly over COGVX_MACHINES = {self.count}"
            problems.append(Problem("train.processes", processes, wrong, f"use {numbers}"))
        if problems:
            raise ConfigError("machines", problems)


def require_gpus(here: Settings, machines: Machines, processes: int) -> None:
    """Refuse to start more processes than there are GPUs; on a machine without any all is well.

    Which GPUs a worker's runs see is decided by CUDA_VISIBLE_DEVICES, in the worker's environment
    or its pool's job variables; the trainer's processes take them in that order.

    Raises:
        ConfigError: There are too few; or none, and the settings ask for them.
    """
    found, share = gpus(), machines.share(processes)
    said = visible_gpus()
    shown = "" if said is None else f', as CUDA_VISIBLE_DEVICES = "{",".join(said)}" says'
    if not found:
        if here.device == "cuda":
            raise ConfigError(
                f"COGVX_DEVICE = cuda, but {platform.node()} has no GPU that may be used{shown}; "
                "give its worker one, or use auto to train on the CPU"
            )
        return
    if len(found) < share:
        enough = len(found) * machines.count
        raise ConfigError(
            f"train.processes = {processes} needs {share} GPU(s) on {platform.node()}, where "
            f"{len(found)} may be used{shown}; use {enough}, or give its worker more"
        )
    if len(found) > share:
        idle = len(found) - share
        logger.warning(
            "train.processes = %d: %d of %d GPUs stay idle here", processes, idle, len(found)
        )


def machine_tags(machines: Machines) -> dict[str, str]:
    """Where a run is trained, for MLflow: the machine that leads, its GPUs, how many machines."""
    return {
        "cogvx.machine": platform.node(),
        "cogvx.gpus": ",".join(gpus()) or "none",
        "cogvx.machines": str(machines.count),
    }
