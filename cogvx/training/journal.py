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
from torch import Tensor, nn

from cogvx.recipe_sections import TrainConfig
from cogvx.training.batch import Batches
from cogvx.training.checkpoint import Progress
from cogvx.training.events import Recorder
from cogvx.training.heldout import HeldoutLoss, by_clip, mean_loss, measure
from cogvx.training.metrics import Place, Scores, Window, norm_of, require_finite
from cogvx.training.optimiser import lr_at
from cogvx.training.run import Sample
from cogvx.training.stop import Stop
from cogvx.training.tally import Tally


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
    _tally: Tally
    _window: Window
    _waited: list[float]
    _place: Place | None
    _seconds_before: float
    _started: float
    _logged_step: int
    _logged_time: float
    _saved_step: int | None
    _parameters: tuple[nn.Parameter, ...]
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
        self._tally = progress.tally
        self._window = Window()
        self._waited = [0.0] * watch.accelerator.num_processes
        self._place = None
        self._seconds_before = progress.seconds
        self._started = self._logged_time = time.monotonic()
        self._logged_step = progress.step
        self._saved_step = progress.step or None
        # float16's scaler skips an update whose gradient overflows, and goes on
        self._parameters = tuple(
            parameter for parameter in watch.transformer.parameters() if parameter.requires_grad
        )
        self._may_overflow = watch.transformer.dtype == torch.float16

    @property
    def seconds(self) -> float:
        """Time spent training, over all tries."""
        return self._seconds_before + time.monotonic() - self._started

    def begin(self) -> None:
        """Measure the bare base, unless an earlier try did."""
        if self.step == 0 and self.heldout_before is None:
            self.heldout_before = self.measure_heldout()

    def expect(self, step: int) -> None:
        """Note where the weights are before update number `step`, if its length will be logged.

        To be called when the gradients are there: then the activations' memory is free for a copy.
        """
        self._place = Place.of(self._parameters) if self._is_logged(step) else None

    def record(self, step: int, scores: Scores, norm: Tensor) -> None:
        """Note update number `step`, the first being 1, and do what is due after it.

        A checkpoint comes before a held-out measurement: a kill during the long one costs nothing.

        Args:
            step: Number of the update.
            scores: Of this process's samples.
            norm: Of the gradient before clipping, on the device.

        Raises:
            TrainingDiverged: The loss is not finite; noticed at the next log line or checkpoint.
        """
        self.step = step
        self._window.add(scores, norm)
        last = step == self.train.steps
        if self._is_logged(step):
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
        self._read_window()
        name = self._save(
            Progress(
                step=self.step,
                seconds=round(self.seconds, 3),
                tally=self._tally,
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

    def _is_logged(self, step: int) -> bool:
        return step % self.train.log_every == 0 or step == self.train.steps

    def _log(self) -> None:
        weight_norm, update_norm = self._read_window(
            norm_of(self._parameters),
            torch.zeros(()) if self._place is None else self._place.distance(self._parameters),
        )
        self._place = None
        values = {
            **self._tally.values(timesteps=self._timesteps),
            "weight_norm": weight_norm,
            "update_norm": update_norm,
            "learning_rate": lr_at(self.step - 1, self.train),
            "epoch": self.watch.batches.sampler.epoch(self.step),
        }
        self.train_loss = values.get("loss", self.train_loss)
        self._tally = self._tally.next_window()
        now = time.monotonic()
        rate = (self.step - self._logged_step) / max(now - self._logged_time, 1e-9)
        waited = max(self._waited) / max(now - self._logged_time, 1e-9)
        self._waited = [0.0] * len(self._waited)
        self._logged_step, self._logged_time = self.step, now
        samples_per_second = rate * self.train.global_batch
        self.events.write(
            "metrics",
            step=self.step,
            values={name: value for name, value in values.items() if math.isfinite(value)},
            system={"samples_per_second": samples_per_second, "data_wait_share": waited},
        )
        self.events.write(
            "progress",
            step=self.step,
            steps=self.train.steps,
            eta_seconds=round((self.train.steps - self.step) / rate, 1),
            samples_per_second=round(samples_per_second, 3),
        )

    def _read_window(self, *own: Tensor) -> tuple[float, ...]:
        """Count what all processes did since the last time; one exchange between them.

        Returns:
            The first process's `own` numbers.

        Raises:
            TrainingDiverged: A loss or a norm is not finite.
        """
        waited = sum(scores.waited_seconds for scores in self._window.scores)
        reading = self._window.read(self.watch.accelerator, self.train, own=(*own, waited))
        self._waited = [
            before + numbers[-1] for before, numbers in zip(self._waited, reading.own, strict=True)
        ]
        require_finite(reading.updates, last_step=self.step, may_overflow=self._may_overflow)
        self._tally = self._tally.plus(reading.updates, timesteps=self._timesteps)
        return reading.own[0][:-1]

    @property
    def _timesteps(self) -> int:
        return self.watch.batches.objective.schedule.timesteps


def _by_timestep(losses: Sequence[HeldoutLoss]) -> dict[str, float]:
    timesteps = sorted({loss.timestep for loss in losses})
    return {
        str(timestep): mean_loss([loss for loss in losses if loss.timestep == timestep])
        for timestep in timesteps
    }
