"""Which of the machines that train one run together this is.

Every machine has a run folder of its own, filled from the store. The first one writes the events,
the checkpoints and the adapter, and hands its newest checkpoint to the others when they have met.
"""

from dataclasses import dataclass
from typing import Self

from cogvx.errors import ConfigError, Problem
from tasks.settings import Settings

_ANY_FREE_PORT = 0


@dataclass(frozen=True)
class Machines:
    """How many there are, the number of this one from 0, and where the first one listens."""

    count: int = 1
    rank: int = 0
    address: str = ""
    port: int = _ANY_FREE_PORT

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
