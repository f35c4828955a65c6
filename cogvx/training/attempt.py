"""One try at a run: train, export, verify, and write down how it ended, whatever ended it."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import torch
from accelerate import Accelerator

from cogvx.adapters.card import AdapterCard, library_versions
from cogvx.adapters.export import export_adapter
from cogvx.adapters.verify import verify_export
from cogvx.digest import sha256_file
from cogvx.errors import CogvxError, ConfigError
from cogvx.files import is_aside, write_document
from cogvx.model.attention import attention
from cogvx.model.identity import commit_of
from cogvx.model.image_scale import image_scale_of
from cogvx.preflight.compare import Measured, comparison, estimated_numbers
from cogvx.preflight.estimate import Estimate
from cogvx.runs.folder import RunFolder, RunSpec, StopReason, TrainOutcome
from cogvx.training.loop import train
from cogvx.training.prepare import Trainer, prepare
from cogvx.training.reckoning import look_back, reckon
from cogvx.training.shortage import is_shortage, out_of_memory
from cogvx.training.stop import EXIT_STOPPED, Stop
from cogvx.variants import read_facts


class Attempt:
    """One try at a run; whatever ends it is written to outcome.json and then goes its way."""

    trainer: Trainer | None
    measured: Measured | None

    def __init__(self, folder: RunFolder, spec: RunSpec) -> None:
        """Nothing is loaded yet."""
        self.folder = folder
        self.spec = spec
        self.trainer = None
        self.measured = None

    def __enter__(self) -> Self:
        """Errors are written down from here on."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Write down an error, of whichever process; it is not held back.

        When one process fails, the others fail too, for want of it: the first one's reason stays.
        A full disk may have no room for it either, and then it is only printed.
        """
        if kind is None or not issubclass(kind, Exception):
            return
        ours = issubclass(kind, CogvxError)
        if not ours and self._failure() is not None:
            return
        with contextlib.suppress(OSError):
            self._write_outcome(
                status="failed",
                error_kind=kind.__name__ if ours else CogvxError.__name__,
                error=str(error) if ours else f"{kind.__name__}: {error}",
            )

    @contextlib.contextmanager
    def short_of_memory(self, device: torch.device) -> Iterator[None]:
        """Where memory runs out in the block, name the settings that would help."""
        try:
            yield
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            fit = None if self.trainer is None else self.trainer.fit
            raise out_of_memory(self.spec.recipe, fit, device, error) from error

    def run(self, accelerator: Accelerator, stop: Stop, *, say: Callable[[str], None]) -> int:
        """Train, export, verify; returns the exit code. `say` tells who watches the output."""
        stop.join(accelerator.num_processes)
        if accelerator.is_main_process:
            self._clear()
        self.trainer = prepare(self.folder, self.spec, accelerator=accelerator, stop=stop)
        journal = self.trainer.journal
        if accelerator.is_main_process:
            say(self.trainer.fit.why)
        estimated = self._estimate(accelerator.device)
        journal.events.write("phase", name="training")
        with attention(self.trainer.fit.attention), self.trainer.learner.feed:
            journal.begin()
            train(self.trainer.learner, journal, stop)
            journal.checkpoint()
            finished = journal.is_done
            heldout_after = journal.conclude() if finished else None
        if accelerator.is_main_process:
            self._look_back(estimated, accelerator.device)
        if self.spec.heldout and heldout_after is None:
            finished = False
        if not finished:
            stop.agreed()  # it may have come to only one of the processes, and late
            self._require_headway(stop.reason)
        if finished and accelerator.is_main_process:
            self._export(heldout_after, say)
        # once on every machine, for whoever waits there
        if not finished and accelerator.is_local_main_process and not self._is_explained():
            self._write_outcome(
                status="stopped", stopped_for=stop.reason, error=self._stopped(stop.reason)
            )
        accelerator.end_training()
        return 0 if finished else EXIT_STOPPED

    def _estimate(self, device: torch.device) -> Estimate:
        """Say what training should take."""
        assert self.trainer is not None
        facts, journal = self.trainer.learner.objective.facts, self.trainer.journal
        estimated = reckon(self.spec, facts, self.trainer.fit, device)
        journal.events.write(
            "estimate",
            step=journal.step,
            device=estimated.device,
            values=estimated_numbers(estimated),
        )
        return estimated

    def _look_back(self, estimated: Estimate, device: torch.device) -> None:
        """Say what it took; to be called before the export, which needs memory of its own."""
        assert self.trainer is not None
        journal = self.trainer.journal
        self.measured = look_back(self.folder, self.spec, estimated, device)
        journal.events.write(
            "measured",
            step=journal.step,
            device=self.measured.device,
            values=self.measured.numbers(),
            text=comparison(self.measured),
        )

    def _export(self, heldout_after: float | None, say: Callable[[str], None]) -> None:
        assert self.trainer is not None
        folder, trainer, spec = self.folder, self.trainer, self.spec
        events = trainer.journal.events
        card = adapter_card(spec, steps=trainer.journal.best_step or trainer.journal.step)
        events.write("phase", name="exporting")
        path = export_adapter(trainer.transformer, folder.adapter, card=card)
        events.write("phase", name="verifying")
        check = verify_export(
            trainer.transformer,
            path,
            base_folder=Path(spec.base_folder),
            facts=trainer.learner.objective.facts,
        )
        events.write("verified", values=dataclasses.asdict(check), text=check.text)
        say(check.text)
        self._write_outcome(
            status="completed", heldout_after=heldout_after, adapter_sha256=sha256_file(path)
        )
        events.write("phase", name="completed")

    def _stopped(self, reason: StopReason | None) -> str:
        assert self.trainer is not None
        why = "training was asked to stop"
        if reason == "max_hours":
            why = f"train.max_hours = {self.spec.recipe.train.max_hours:g} is over"
        step = self.trainer.journal.step
        saved = f"step {step} is saved" if step else "no step was done yet"
        return f"{why}; {saved}. Run it again to go on from there"

    def _require_headway(self, reason: StopReason | None) -> None:
        """Refuse hours so short that no start would get further than the one before it."""
        assert self.trainer is not None
        step = self.trainer.journal.step
        if reason == "max_hours" and step == (self.trainer.resumed_from or 0):
            raise ConfigError(
                f"train.max_hours = {self.spec.recipe.train.max_hours:g} was over before anything "
                f"new was done, at step {step}, and would be each time; use more"
            )

    def _clear(self) -> None:
        """Remove what an earlier try left: its outcome, and files that it was still writing."""
        self.folder.outcome.unlink(missing_ok=True)
        for parent in (self.folder.root, self.folder.adapter):
            for path in parent.glob("*"):
                if is_aside(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _is_explained(self) -> bool:
        """Whether a process of this try has written down an error of a known kind."""
        failure = self._failure()
        return failure is not None and failure.error_kind != CogvxError.__name__

    def _failure(self) -> TrainOutcome | None:
        """What a process of this try has written down of its failure."""
        outcome = self.folder.read_outcome()
        return outcome if outcome is not None and outcome.status == "failed" else None

    def _write_outcome(
        self,
        *,
        status: Literal["completed", "failed", "stopped"],
        heldout_after: float | None = None,
        adapter_sha256: str | None = None,
        stopped_for: StopReason | None = None,
        error_kind: str | None = None,
        error: str | None = None,
    ) -> None:
        trainer = self.trainer
        journal = None if trainer is None else trainer.journal
        outcome = TrainOutcome(
            status=status,
            step=0 if journal is None else journal.step,
            steps=self.spec.recipe.train.steps,
            train_loss=None if journal is None else journal.train_loss,
            heldout_before=None if journal is None else journal.heldout_before,
            heldout_after=heldout_after,
            seconds=0.0 if journal is None else round(journal.seconds, 3),
            resumed_from=None if trainer is None else trainer.resumed_from,
            adapter_sha256=adapter_sha256,
            stopped_for=stopped_for,
            stopped_early_at=None if journal is None else journal.stopped_early_at,
            best_step=None if journal is None else journal.best_step,
            measured=self.measured,
            error_kind=error_kind,
            error=error,
        )
        write_document(self.folder.outcome, outcome)


def adapter_card(spec: RunSpec, *, steps: int) -> AdapterCard:
    """What the adapter's file will say of itself, its weights having had so many updates."""
    recipe = spec.recipe
    return AdapterCard(
        name=recipe.name,
        run=spec.run,
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha,
        targets=recipe.lora.targets,
        base_path=recipe.base.path,
        base_revision=commit_of(Path(spec.base_folder)) or recipe.base.revision,
        base_fingerprint=spec.base_fingerprint,
        base_dtype=recipe.base.dtype,
        base_weights=recipe.compute.stored_weights,
        image_latent_scale=image_scale_of(
            read_facts(Path(spec.base_folder)).variant, recipe.base.image_latent_scale
        ),
        recipe=recipe.training_digest(),
        manifest=spec.manifest,
        steps=steps,
        size=str(recipe.video.size),
        fps=recipe.video.fps,
        code=spec.code_version,
        warnings=spec.warnings,
        libraries=library_versions(),
    )
