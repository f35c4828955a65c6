"""What is written down between updates: log lines, held-out losses, checkpoints.

Everything here waits for the device, so it happens at the recipe's intervals and nowhere else. All
processes call every method, because some of them exchange numbers; only the first writes files.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from cogvx.recipe_sections import TrainConfig
from cogvx.runs.events import Recorder
from cogvx.training.checkpoint import Progress
from cogvx.training.exam import Result
from cogvx.training.metrics import Scores
from cogvx.training.readings import Readings, Watch


class Journal:
    """How far a run is, and its record.

    Attributes:
        step: Updates done.
        train_loss: Mean over the last logged window of updates.
        heldout_before: The loss on all held-out clips of what the run began with, the bare base or
            the forked weights; None while unmeasured.
    """

    step: int
    train_loss: float | None
    heldout_before: float | None
    readings: Readings
    _seconds_before: float
    _started: float
    _saved_step: int | None

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
        self.readings = Readings(watch, train, progress=progress, events=events)
        self._seconds_before = progress.seconds
        self._started = time.monotonic()
        self._saved_step = progress.step or None

    @property
    def seconds(self) -> float:
        """Time spent training, over all tries."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def stops_early(self) -> bool:
        """Whether the held-out loss has not fallen for so long that training ends here."""
        return self.watch.exam.patience.is_over

    @property
    def stopped_early_at(self) -> int | None:
        """The last update, if more were asked for and training ended all the same."""
        return self.step if self.stops_early and self.step < self.train.steps else None

    @property
    def best_step(self) -> int | None:
        """The update whose weights are the best by held-out loss, if the recipe asks for them."""
        best = self.watch.exam.patience.best
        return None if best is None else best.step

    @property
    def is_done(self) -> bool:
        """Whether no update is to come any more."""
        return self.step >= self.train.steps or self.stops_early

    def begin(self) -> None:
        """Measure what the run began with, unless an earlier try did.

        So is repeated what decides about stopping early, if it came after the checkpoint.
        """
        if self.step == 0 and self.heldout_before is None:
            result = self._take(self.step, whole=True)
            if result is not None:
                self._tell_point(result)
                self.heldout_before = self._tell_all(result, self.step)
        elif self._is_measured(self.step) and self.watch.exam.patience.lacks(self.step):
            self.measure_heldout()

    def expect(self, step: int) -> None:
        """Note where the weights are before update number `step`, if its length will be logged.

        To be called when the gradients are there: then the activations' memory is free for a copy.
        """
        if self._is_logged(step):
            self.readings.mark()

    def record(self, step: int, scores: Scores, norm: Tensor) -> None:
        """Note update number `step`, the first being 1, and do what is due after it.

        A checkpoint comes before a held-out measurement: a kill during the long one costs nothing.

        Args:
            step: Number of the update.
            scores: Of this process's samples.
            norm: Of the gradient before clipping, on the device.

        Raises:
            TrainingDiverged: Too many updates in a row were skipped; noticed at the next log line
                or checkpoint, and no weight has moved by them.
        """
        self.step = step
        self.readings.add(scores, norm)
        last = step == self.train.steps
        if self._is_logged(step):
            loss = self.readings.log(step)
            self.train_loss = self.train_loss if loss is None else loss
        if step % self.train.checkpoint_every == 0 or last:
            self.checkpoint()
        if self._is_measured(step):
            self.measure_heldout()

    def checkpoint(self) -> None:
        """Save a checkpoint unless this very step has one.

        Raises:
            TrainingDiverged: Too many updates in a row were skipped, or a weight is not finite: a
                good checkpoint is never followed by such.
        """
        if self.step in (0, self._saved_step):
            return
        self.readings.read(self.step)
        with self.watch.gauges.aside():
            self._save_now()

    def _save_now(self) -> None:
        name = self._save(
            Progress(
                step=self.step,
                seconds=round(self.seconds, 3),
                tally=self.readings.tally,
                train_loss=self.train_loss,
                heldout_before=self.heldout_before,
                skipped=self.readings.skips.total,
                skipped_in_a_row=self.readings.skips.in_a_row,
                best=self.watch.exam.patience.best,
            )
        )
        self._saved_step = self.step
        self.events.write("checkpoint", step=self.step, folder=name)

    def measure_heldout(self) -> float | None:
        """Measure the curve's held-out clips with the weights that would be exported now.

        Returns:
            The mean loss; None when no clip is held out, or when a stop was asked for meanwhile.

        Raises:
            TrainingDiverged: It is not finite.
        """
        result = self._take(self.step)
        if result is None:
            return None
        self._tell_point(result)
        return result.loss

    def conclude(self) -> float | None:
        """Choose the weights to export, when nothing is trained or saved any more.

        Returns:
            Their loss on all held-out clips; None as for `measure_heldout`.
        """
        exam = self.watch.exam
        missing = exam.patience.lacks(self.step)
        if missing and self.measure_heldout() is None and exam.heldout:
            return None
        self.watch = replace(self.watch, exam=exam.settled())
        step = self.step if self.best_step is None else self.best_step
        result = self._take(step, whole=True)
        if result is None:
            return None
        if self.best_step is None:
            self._tell_point(result)
        return self._tell_all(result, step)

    def _take(self, step: int, *, whole: bool = False) -> Result | None:
        with self.watch.gauges.aside():
            return self.watch.exam.take(step, whole=whole)

    def _tell_point(self, result: Result) -> None:
        """Write down a point of the curve, which is always over the same clips."""
        self.events.write(
            "heldout",
            step=self.step,
            loss=result.loss,
            clips=result.clips,
            by_timestep=result.by_timestep,
        )

    def _tell_all(self, result: Result, step: int) -> float | None:
        """Write down the loss on all clips, of weights that had `step` updates."""
        self.events.write("heldout_all", step=step, loss_all=result.loss_all)
        return result.loss_all

    def _is_measured(self, step: int) -> bool:
        """Whether held-out clips are due after an update; after the last, `conclude` sees to it."""
        return step % self.train.heldout_every == 0 and 0 < step < self.train.steps

    def _is_logged(self, step: int) -> bool:
        return step % self.train.log_every == 0 or step == self.train.steps
