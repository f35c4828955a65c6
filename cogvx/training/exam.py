"""What the held-out clips decide in a run: which weights they measure, and which are exported.

Measured are those that would be exported if training ended now: the mean where there is one.
The curve is over the same few clips at every point, since a point costs as many forward passes as
there are windows and timesteps; all clips are measured at the start and at the end.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import CogVideoXTransformer3DModel

from cogvx.errors import TrainingDiverged
from cogvx.model.lora import lora_state, set_lora_state
from cogvx.objective.heldout import HeldoutLoss, by_clip, mean_loss, measure
from cogvx.objective.objective import Objective
from cogvx.runs.folder import Sample
from cogvx.training.early_stop import Patience
from cogvx.training.ema import Ema
from cogvx.training.stop import Stop


@dataclass(frozen=True)
class Result:
    """A point of the curve: the mean held-out loss, over how many clips, and at each timestep.

    `loss_all` is the mean over all clips, None where only the curve's were measured.
    """

    loss: float
    clips: int
    by_timestep: dict[str, float]
    loss_all: float | None = None


@dataclass(frozen=True)
class Exam:
    """The held-out clips of a run, and what chooses the weights; all processes take it together.

    `curve` are the names of the clips behind each point of the curve; `records` is the folder of
    all clips' records; `strata` how many timesteps each one is measured at; `stop` may cut a
    measurement short.
    """

    accelerator: Accelerator
    transformer: CogVideoXTransformer3DModel
    objective: Objective
    heldout: tuple[Sample, ...]
    curve: frozenset[str]
    records: Path
    strata: int
    stop: Stop
    ema: Ema | None
    patience: Patience

    def take(self, step: int, *, whole: bool = False) -> Result | None:
        """Measure the curve's clips, or all of them, shared out over the processes.

        Args:
            step: Updates that the weights have had.
            whole: Whether all clips are measured, the curve's among them.

        Returns:
            None when no clip is held out, or when a stop was asked for meanwhile.

        Raises:
            TrainingDiverged: A loss is not finite.
        """
        if not self.heldout:
            return None
        with nullcontext() if self.ema is None else self.ema.applied():
            samples = [clip for clip in self.heldout if whole or clip.clip in self.curve]
            losses = self._losses(samples)
            if len(losses) < len(samples) * self.strata:
                return None
            clips = by_clip(losses)
            everything = mean_loss(clips)
            if not math.isfinite(everything):
                raise TrainingDiverged(_no_number(clips, step))
            shown = [loss for loss in clips if loss.clip in self.curve]
            average = mean_loss(shown)
            self.patience.note(step, average, weights=lambda: lora_state(self.transformer))
        return Result(
            average,
            clips=len(shown) // self.strata,
            by_timestep=_by_timestep(shown),
            loss_all=everything if whole else None,
        )

    def settled(self) -> Self:
        """Put the weights to export into the transformer; nothing can be trained any more then.

        They are the best by held-out loss where the recipe asks for them, else the mean, else the
        last.

        Returns:
            The exam of just those weights.
        """
        if self.patience.best is not None:
            set_lora_state(self.transformer, self.patience.weights)
        elif self.ema is not None:
            with self.ema.applied():
                mean = lora_state(self.transformer)
            set_lora_state(self.transformer, mean)
        return replace(self, ema=None)

    def _losses(self, samples: Sequence[Sample]) -> list[HeldoutLoss]:
        """Of all processes; some are missing when a stop was asked for meanwhile."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine: list[HeldoutLoss] = []
        for loss in measure(
            self.transformer,
            self.objective,
            samples=samples[rank::processes],
            records=self.records,
            strata=self.strata,
        ):
            mine.append(loss)
            if self.stop.requested:
                break
        losses: list[HeldoutLoss] = gather_object(mine)
        return losses


def curve_clips(heldout: Sequence[Sample], most: int) -> frozenset[str]:
    """Names of the first `most` clips in the windows' order, which is the manifest's; 0 is all."""
    names = list(dict.fromkeys(sample.clip for sample in heldout))
    return frozenset(names[: most or None])


def _by_timestep(losses: Sequence[HeldoutLoss]) -> dict[str, float]:
    timesteps = sorted({loss.timestep for loss in losses})
    return {
        str(timestep): mean_loss([loss for loss in losses if loss.timestep == timestep])
        for timestep in timesteps
    }


def _no_number(clips: Sequence[HeldoutLoss], step: int) -> str:
    odd = next(clip for clip in clips if not math.isfinite(clip.loss))
    return (
        f"the held-out loss of {odd.clip} at timestep {odd.timestep} is {odd.loss} after step "
        f"{step}; remove the clip if it was so at step 0, else lower train.learning_rate"
    )
