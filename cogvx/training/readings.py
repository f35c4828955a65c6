"""The numbers of the updates since the last log line: gathered, counted, written down.

What is a function of the training stands apart from what is of the machine, and goes into every
checkpoint, so that a log line is the same whether or not the run was interrupted before it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn
from torch.optim import Optimizer

from cogvx.objective.batch import Batches
from cogvx.recipe_sections import TrainConfig
from cogvx.runs.events import Recorder
from cogvx.runs.tally import Seen, Tally
from cogvx.training.checkpoint import Progress
from cogvx.training.divergence import Skips
from cogvx.training.exam import Exam
from cogvx.training.gauges import Gauges, peak_memory_gib
from cogvx.training.metrics import Place, Scores, Window, norm_of
from cogvx.training.optimiser import effective_rate


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


class Readings:
    """What was read of the updates so far.

    Attributes:
        step: The update up to which everything was read.
        tally: Of the updates since the last log line.
        skips: Of the whole run.
    """

    step: int
    tally: Tally
    skips: Skips
    _window: Window
    _waited: list[float]
    _memory: float
    _place: Place | None
    _logged_step: int
    _logged_time: float
    _parameters: tuple[nn.Parameter, ...]

    def __init__(
        self, watch: Watch, train: TrainConfig, *, progress: Progress, events: Recorder
    ) -> None:
        """Go on from `progress`."""
        self.watch = watch
        self.train = train
        self.events = events
        self.step = progress.step
        self.tally = progress.tally
        self.skips = Skips(progress.skipped, progress.skipped_in_a_row)
        self._window = Window()
        self._waited = [0.0] * watch.accelerator.num_processes
        self._memory = 0.0
        self._place = None
        self._logged_step = progress.step
        self._logged_time = time.monotonic()
        self._parameters = tuple(
            parameter for parameter in watch.transformer.parameters() if parameter.requires_grad
        )

    def mark(self) -> None:
        """Note where the weights are, since the length of the next update will be logged."""
        self._place = Place.of(self._parameters)

    def add(self, scores: Scores, norm: Tensor) -> None:
        """Keep the numbers of one update of this process, on the device."""
        self._window.add(scores, norm)

    def log(self, step: int) -> float | None:
        """Write down the window that ends with update number `step`, and begin the next one.

        Returns:
            Its mean loss; None if no loss in it was a number.

        Raises:
            TrainingDiverged: Too many updates in a row were skipped.
        """
        weight_norm, update_norm = self.read(
            step,
            norm_of(self._parameters),
            torch.zeros(()) if self._place is None else self._place.distance(self._parameters),
        )
        loss, self._place = self.tally.loss, None
        values = {
            **self.tally.values(timesteps=self._timesteps),
            "weight_norm": weight_norm,
            "update_norm": update_norm,
            "learning_rate": effective_rate(self.watch.optimiser),
            "epoch": self.watch.batches.sampler.epoch(step),
            "skipped": self.skips.total,
        }
        system = self.watch.gauges.read(
            range(self._logged_step, step), waited=max(self._waited), memory_gib=self._memory
        )
        self.tally = self.tally.next_window()
        self._waited = [0.0] * len(self._waited)
        rate = (step - self._logged_step) / max(time.monotonic() - self._logged_time, 1e-9)
        self._logged_step, self._logged_time = step, time.monotonic()
        self.events.write(
            "metrics",
            step=step,
            values={name: value for name, value in values.items() if math.isfinite(value)},
            system=system,
        )
        self.events.write(
            "progress",
            step=step,
            steps=self.train.steps,
            eta_seconds=round((self.train.steps - step) / rate, 1),
            samples_per_second=round(system["samples_per_second"], 3),
        )
        return loss

    def read(self, step: int, *own: Tensor) -> tuple[float, ...]:
        """Count what all processes did up to update `step`; one exchange between them.

        Returns:
            The first process's `own` numbers.

        Raises:
            TrainingDiverged: Too many of them in a row were skipped.
        """
        self.step, accelerator = step, self.watch.accelerator
        waited = sum(scores.waited_seconds for scores in self._window.scores)
        memory = peak_memory_gib(accelerator.device)
        reading = self._window.read(accelerator, self.train, own=(*own, waited, memory))
        self._waited = [
            before + numbers[-2] for before, numbers in zip(self._waited, reading.own, strict=True)
        ]
        self._memory = max(numbers[-1] for numbers in reading.own)
        self._count_skipped(reading.updates)
        self.tally = self.tally.plus(reading.updates, timesteps=self._timesteps)
        return reading.own[0][:-2]

    def _count_skipped(self, updates: Sequence[Seen]) -> None:
        # float16's scaler looks for its scale by skipping; once it has come down to 1, it has found
        # that the scale is not to blame
        searches = self.watch.scaler.get_scale() > 1
        most = math.inf if searches else self.train.max_skipped
        self.skips, skipped = self.skips.plus(updates, last_step=self.step, most=most)
        if skipped:
            self.events.write(
                "skipped",
                step=self.step,
                updates=[{"step": skip.step, "reason": skip.reason} for skip in skipped],
                total=self.skips.total,
                in_a_row=self.skips.in_a_row,
            )

    @property
    def _timesteps(self) -> int:
        return self.watch.batches.objective.schedule.timesteps
