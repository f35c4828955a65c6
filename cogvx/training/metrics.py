"""Numbers of the last updates, taken off the device only when they are written down."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from cogvx.recipe_sections import TrainConfig
from cogvx.runs.tally import Seen


@dataclass(frozen=True)
class Scores:
    """One process's share of an update, in the order of its micro-batches.

    `loss_b` is unweighted and stays on the device; `timesteps_b` is on the CPU. `waited_seconds`
    went by until the batches were there.
    """

    loss_b: Tensor
    timesteps_b: Tensor
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class Reading:
    """What all processes saw: the updates, oldest first, and each process's own numbers."""

    updates: tuple[Seen, ...]
    own: tuple[tuple[float, ...], ...]


@dataclass
class Window:
    """Updates of this process that were not read yet, oldest first, still on the device."""

    scores: list[Scores] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)

    def add(self, scores: Scores, norm: Tensor) -> None:
        """Keep the numbers of one update."""
        self.scores.append(scores)
        self.norms.append(norm.detach())

    def read(
        self, accelerator: Accelerator, train: TrainConfig, *, own: Sequence[Tensor | float]
    ) -> Reading:
        """Bring everything to every process, in one exchange, and forget it.

        Args:
            accelerator: Of this process; all processes read at the same update.
            train: Says in which order the processes' samples make up the global batch.
            own: Further numbers of this process, as many as in the others.
        """
        device, updates = accelerator.device, len(self.norms)
        parts = [one.loss_b.detach() for one in self.scores]
        parts += [torch.cat([one.timesteps_b for one in self.scores]).to(device)] if updates else []
        parts += [norm.reshape(1) for norm in self.norms]
        parts += [torch.as_tensor(number, device=device).reshape(1) for number in own]
        flat = torch.cat([part.to(torch.float64) for part in parts])
        gathered_pn = accelerator.gather(flat).cpu().reshape(accelerator.num_processes, -1)
        self.scores, self.norms = [], []
        samples = updates * train.accumulation * train.micro_batch
        losses, timesteps, norms, rest = gathered_pn.split(
            [samples, samples, updates, len(own)], dim=1
        )
        return Reading(
            updates=tuple(
                Seen(losses=loss, timesteps=[int(t) for t in timestep], grad_norm=norm)
                for loss, timestep, norm in zip(
                    _global_order(losses, train),
                    _global_order(timesteps, train),
                    norms[0].tolist(),
                    strict=True,
                )
            ),
            own=tuple(tuple(numbers) for numbers in rest.tolist()),
        )


@dataclass(frozen=True)
class Place:
    """Where the weights were before an update."""

    weights: tuple[Tensor, ...]

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter]) -> "Place":
        """Here; costs a copy of the adapter until the update is done."""
        return cls(tuple(parameter.detach().clone() for parameter in parameters))

    def distance(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Norm of the way that all weights together have gone since, on the device."""
        # one by one: the differences of all weights together would be a second copy of them
        ways = [
            torch.linalg.vector_norm(now.detach() - then)
            for now, then in zip(parameters, self.weights, strict=True)
        ]
        way: Tensor = torch.linalg.vector_norm(torch.stack(ways))
        return way


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all tensors together, on their device."""
    norm: Tensor = get_total_norm([tensor.detach() for tensor in tensors])
    return norm


def _global_order(numbers_pn: Tensor, train: TrainConfig) -> list[list[float]]:
    """Of each update, the processes' numbers as they stand in the global batch.

    Micro-batch by micro-batch, and in each one process by process, as `Sampler.positions` says.
    """
    shape = (len(numbers_pn), -1, train.accumulation, train.micro_batch)
    ordered: list[list[float]] = numbers_pn.reshape(shape).permute(1, 2, 0, 3).flatten(1).tolist()
    return ordered
