"""What is written down between updates: log lines, held-out losses, checkpoints.

Everything here waits for the device, so it happens at the recipe's intervals and nowhere else. All
processes call every method, because some of them exchange numbers; only the first writes files.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn
from torch.optim import Optimizer

from cogvx.recipe_sections import TrainConfig
from cogvx.training.batch import Batches
from cogvx.training.checkpoint import Progress
from cogvx.training.divergence import Skips
from cogvx.training.events import Recorder
from cogvx.training.exam import Exam
from cogvx.training.gauges import Gauges, peak_memory_gib
from cogvx.training.metrics import Place, Scores, Window, norm_of
from cogvx.training.optimiser import effective_rate
from cogvx.training.tally import Seen, Tally


@dataclass(frozen=True)
class Watch:
    """What the journal looks at: the bare transformer, what moves it, and what is asked of it."""

    accelerator: Accelerator
    transformer: CogVideoXTransformer3DModel
    batches: Batches
    optimiser: Optimizer
    scaler: torch.amp.GradScaler
    gauges: Gauges
    exam: Exam


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
    _memory: float
    _place: Place | None
    _seconds_before: float
    _started: float
    _logged_step: int
    _logged_time: float
    _saved_step: int | None
    _parameters: tuple[nn.Parameter, ...]
    _skips: Skips

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
        self._memory = 0.0
        self._place = None
        self._seconds_before = progress.seconds
        self._started = self._logged_time = time.monotonic()
        self._logged_step = progress.step
        self._saved_step = progress.step or None
        self._parameters = tuple(
            parameter for parameter in watch.transformer.parameters() if parameter.requires_grad
        )
        self._skips = Skips(progress.skipped, progress.skipped_in_a_row)

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
        return self.step == self.train.steps or self.stops_early

    def begin(self) -> None:
        """Measure the bare base, unless an earlier try did.

        So is repeated what decides about stopping early, if it came after the checkpoint.
        """
        if self.step == 0 and self.heldout_before is None:
            self.heldout_before = self.measure_heldout()
        elif self._is_measured(self.step) and self.watch.exam.patience.lacks(self.step):
            self.measure_heldout()

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
            TrainingDiverged: Too many updates in a row were skipped; noticed at the next log line
                or checkpoint, and no weight has moved by them.
        """
        self.step = step
        self._window.add(scores, norm)
        last = step == self.train.steps
        if self._is_logged(step):
            self._log()
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
        self._read_window()
        with self.watch.gauges.aside():
            self._save_now()

    def _save_now(self) -> None:
        name = self._save(
            Progress(
                step=self.step,
                seconds=round(self.seconds, 3),
                tally=self._tally,
                train_loss=self.train_loss,
                heldout_before=self.heldout_before,
                skipped=self._skips.total,
                skipped_in_a_row=self._skips.in_a_row,
                best=self.watch.exam.patience.best,
            )
        )
        self._saved_step = self.step
        self.events.write("checkpoint", step=self.step, folder=name)

    def measure_heldout(self) -> float | None:
        """Measure the held-out clips with the weights that would be exported now.

        Returns:
            The mean loss; None when no clip is held out, or when a stop was asked for meanwhile.

        Raises:
            TrainingDiverged: It is not finite.
        """
        with self.watch.gauges.aside():
            result = self.watch.exam.take(self.step)
        if result is None:
            return None
        self.events.write("heldout", step=self.step, **asdict(result))
        return result.loss

    def conclude(self) -> float | None:
        """Choose the weights to export, when nothing is trained or saved any more.

        Returns:
            Their held-out loss; None as for `measure_heldout`.
        """
        exam, loss = self.watch.exam, None
        if exam.patience.best is None or exam.patience.lacks(self.step):
            loss = self.measure_heldout()
            if loss is None and exam.heldout:
                return None
        exam.settle()
        return loss if exam.patience.best is None else exam.patience.best.loss

    def _is_measured(self, step: int) -> bool:
        """Whether held-out clips are due after an update; after the last, `conclude` sees to it."""
        return step % self.train.heldout_every == 0 and 0 < step < self.train.steps

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
            "learning_rate": effective_rate(self.watch.optimiser),
            "epoch": self.watch.batches.sampler.epoch(self.step),
            "skipped": self._skips.total,
        }
        system = self.watch.gauges.read(
            range(self._logged_step, self.step), waited=max(self._waited), memory_gib=self._memory
        )
        self.train_loss = values.get("loss", self.train_loss)
        self._tally = self._tally.next_window()
        self._waited = [0.0] * len(self._waited)
        rate = (self.step - self._logged_step) / max(time.monotonic() - self._logged_time, 1e-9)
        self._logged_step, self._logged_time = self.step, time.monotonic()
        self.events.write(
            "metrics",
            step=self.step,
            values={name: value for name, value in values.items() if math.isfinite(value)},
            system=system,
        )
        self.events.write(
            "progress",
            step=self.step,
            steps=self.train.steps,
            eta_seconds=round((self.train.steps - self.step) / rate, 1),
            samples_per_second=round(system["samples_per_second"], 3),
        )

    def _read_window(self, *own: Tensor) -> tuple[float, ...]:
        """Count what all processes did since the last time; one exchange between them.

        Returns:
            The first process's `own` numbers.

        Raises:
            TrainingDiverged: Too many of them in a row were skipped.
        """
        accelerator = self.watch.accelerator
        waited = sum(scores.waited_seconds for scores in self._window.scores)
        memory = peak_memory_gib(accelerator.device)
        reading = self._window.read(accelerator, self.train, own=(*own, waited, memory))
        self._waited = [
            before + numbers[-2] for before, numbers in zip(self._waited, reading.own, strict=True)
        ]
        self._memory = max(numbers[-1] for numbers in reading.own)
        self._count_skipped(reading.updates)
        self._tally = self._tally.plus(reading.updates, timesteps=self._timesteps)
        return reading.own[0][:-2]

    def _count_skipped(self, updates: Sequence[Seen]) -> None:
        # float16's scaler looks for its scale by skipping; once it has come down to 1, it has found
        # that the scale is not to blame
        searches = self.watch.scaler.get_scale() > 1
        most = math.inf if searches else self.train.max_skipped
        self._skips, skipped = self._skips.plus(updates, last_step=self.step, most=most)
        if skipped:
            self.events.write(
                "skipped",
                step=self.step,
                updates=[{"step": skip.step, "reason": skip.reason} for skip in skipped],
                total=self._skips.total,
                in_a_row=self._skips.in_a_row,
            )

    @property
    def _timesteps(self) -> int:
        return self.watch.batches.objective.schedule.timesteps
