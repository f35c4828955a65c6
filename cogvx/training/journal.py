"""What is written down between updates: log lines, held-out losses, checkpoints.

Everything here waits for the device, so it happens at the recipe's intervals and nowhere else. All
processes call every method, because some of them exchange numbers; only the first writes files.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from cogvx.recipe_sections import TrainConfig
from cogvx.training.batch import Batches
from cogvx.training.checkpoint import Progress
from cogvx.training.events import Recorder
from cogvx.training.heldout import HeldoutLoss, by_clip, mean_loss, measure
from cogvx.training.metrics import LossWindow, require_finite
from cogvx.training.optimiser import lr_at
from cogvx.training.run import Sample
from cogvx.training.stop import Stop


@dataclass(frozen=True)
class Watch:
    """What the journal looks at: the bare transformer, the batches, the held-out clips."""

    accelerator: Accelerator
    transformer: CogVideoXTransformer3DModel
    batches: Batches
    heldout: tuple[Sample, ...]
    stop: Stop


class Journal:
    """How far a run is, and its record.

    Attributes:
        step: Updates done.
        train_loss: Mean over the last logged window of updates.
        heldout_before: The bare base's held-out loss; None while unmeasured.
    """

    step: int
    train_loss: float | None
    heldout_before: float | None
    _window: LossWindow
    _seconds_before: float
    _started: float
    _logged_step: int
    _logged_time: float
    _saved_step: int | None
    _may_overflow: bool

    def __init__(
        self,
        watch: Watch,
        train: TrainConfig,
        *,
        progress: Progress,
        events: Recorder,
        save: Callable[[Progress], str | None],
    ) -> None:
        """Go on from `progress`; `save` writes a checkpoint and returns its folder's name."""
        self.watch = watch
        self.train = train
        self.events = events
        self.step = progress.step
        self.train_loss = progress.train_loss
        self.heldout_before = progress.heldout_before
        self._save = save
        self._window = LossWindow.of(progress.losses, watch.accelerator.device)
        self._seconds_before = progress.seconds
        self._started = self._logged_time = time.monotonic()
        self._logged_step = progress.step
        self._saved_step = progress.step or None
        # float16's scaler skips an update whose gradient overflows, and goes on
        self._may_overflow = watch.transformer.dtype == torch.float16

    @property
    def seconds(self) -> float:
        """Time spent training, over all tries."""
        return self._seconds_before + time.monotonic() - self._started

    def begin(self) -> None:
        """Measure the bare base, unless an earlier try did."""
        if self.step == 0 and self.heldout_before is None:
            self.heldout_before = self.measure_heldout()

    def record(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Note update number `step`, the first being 1, and do what is due after it.

        A checkpoint comes before a held-out measurement: a kill during the long one costs nothing.

        Raises:
            TrainingDiverged: The loss is not finite; noticed at the next log line or checkpoint.
        """
        self.step = step
        self._window.add(loss, norm)
        last = step == self.train.steps
        if step % self.train.log_every == 0 or last:
            self._log()
        if step % self.train.checkpoint_every == 0 or last:
            self.checkpoint()
        if step % self.train.heldout_every == 0 and not last:
            self.measure_heldout()

    def checkpoint(self) -> None:
        """Save a checkpoint unless this very step has one.

        Raises:
            TrainingDiverged: The loss is not finite; a good checkpoint is never followed by such.
        """
        if self.step in (0, self._saved_step):
            return
        losses, _ = self._read_window()
        name = self._save(
            Progress(
                step=self.step,
                seconds=round(self.seconds, 3),
                losses=tuple(losses),
                train_loss=self.train_loss,
                heldout_before=self.heldout_before,
            )
        )
        self._saved_step = self.step
        self.events.write("checkpoint", step=self.step, folder=name)

    def measure_heldout(self) -> float | None:
        """Measure the held-out clips, shared out over the processes.

        Returns:
            The mean loss; None when no clip is held out, or when a stop was asked for meanwhile.
        """
        watch, strata = self.watch, self.train.heldout_strata
        if not watch.heldout:
            return None
        rank, processes = watch.accelerator.process_index, watch.accelerator.num_processes
        mine: list[HeldoutLoss] = []
        for loss in measure(
            watch.transformer,
            watch.batches.objective,
            samples=watch.heldout[rank::processes],
            records=watch.batches.records.folder,
            strata=strata,
        ):
            mine.append(loss)
            if watch.stop.requested:
                break
        losses: list[HeldoutLoss] = gather_object(mine)
        if len(losses) < len(watch.heldout) * strata:
            return None
        clips = by_clip(losses)
        average = mean_loss(clips)
        self.events.write(
            "heldout",
            step=self.step,
            loss=average,
            clips=len(clips) // strata,
            by_timestep=_by_timestep(clips),
        )
        return average

    def _log(self) -> None:
        losses, norms = self._read_window()
        self._window = LossWindow()
        self.train_loss = sum(losses) / len(losses)
        rate = (self.step - self._logged_step) / max(time.monotonic() - self._logged_time, 1e-9)
        self._logged_step, self._logged_time = self.step, time.monotonic()
        samples_per_second = rate * self.train.global_batch
        values = {
            "loss": self.train_loss,
            "grad_norm": norms[-1],
            "learning_rate": lr_at(self.step - 1, self.train),
            "epoch": self.watch.batches.sampler.epoch(self.step),
            "samples_per_second": samples_per_second,
        }
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self.events.write("metrics", step=self.step, values=finite)
        self.events.write(
            "progress",
            step=self.step,
            steps=self.train.steps,
            eta_seconds=round((self.train.steps - self.step) / rate, 1),
            samples_per_second=round(samples_per_second, 3),
        )

    def _read_window(self) -> tuple[list[float], list[float]]:
        """Losses since the last log line, averaged over processes, and norms since this try began.

        Raises:
            TrainingDiverged: One of them is not finite.
        """
        losses = self._averaged(self._window.losses)
        norms = self._averaged(self._window.norms)
        require_finite("loss", losses, last_step=self.step)
        if not self._may_overflow:
            require_finite("gradient's norm", norms, last_step=self.step)
        return losses, norms

    def _averaged(self, numbers: list[Tensor]) -> list[float]:
        if not numbers:
            return []
        averaged: Tensor = self.watch.accelerator.reduce(torch.stack(numbers), reduction="mean")
        values: list[float] = averaged.tolist()
        return values


def _by_timestep(losses: Sequence[HeldoutLoss]) -> dict[str, float]:
    timesteps = sorted({loss.timestep for loss in losses})
    return {
        str(timestep): mean_loss([loss for loss in losses if loss.timestep == timestep])
        for timestep in timesteps
    }
