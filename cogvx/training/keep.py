"""What a checkpoint holds of a learner, how that is put back, and on what footing it goes on."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx.adapters.card import library_versions
from cogvx.model.lora import lora_state, set_lora_state
from cogvx.preflight.fit import Fit
from cogvx.recipe_sections import TrainConfig
from cogvx.runs.events import Recorder
from cogvx.training.checkpoint import (
    BEST,
    EMA,
    LORA,
    OPTIMISER,
    Checkpoint,
    Checkpoints,
    Progress,
)
from cogvx.training.divergence import require_finite_weights
from cogvx.training.early_stop import Patience
from cogvx.training.loop import Learner
from cogvx.training.optimiser_state import optimiser_state, set_optimiser_state


@dataclass(frozen=True)
class Saver:
    """Writes a checkpoint, in the first process only; the others' weights are the same."""

    learner: Learner
    transformer: CogVideoXTransformer3DModel
    checkpoints: Checkpoints
    footing: Mapping[str, str]
    patience: Patience

    def __call__(self, progress: Progress) -> str | None:
        """Write one; the name of its folder, or None in the other processes."""
        if not self.learner.accelerator.is_main_process:
            return None
        lora = lora_state(self.transformer)
        require_finite_weights(lora, step=progress.step)
        tensors = {LORA: lora, OPTIMISER: optimiser_state(self.learner.optimiser, list(lora))}
        if self.learner.ema is not None:
            tensors[EMA] = self.learner.ema.state()
        if self.patience.best is not None:
            tensors[BEST] = dict(self.patience.weights)
        return self.checkpoints.save(
            Checkpoint(
                progress=progress.model_copy(update={"scaler": self.learner.scaler.state_dict()}),
                tensors=tensors,
                footing=self.footing,
            )
        )


def restore(learner: Learner, transformer: CogVideoXTransformer3DModel, found: Checkpoint) -> None:
    """Put a checkpoint back into a learner that was just made.

    Raises:
        IntegrityError: Something of it does not fit.
    """
    set_lora_state(transformer, found.tensors[LORA])
    # names in the parameters' order: a file gives its tensors back in another
    names = list(lora_state(transformer))
    set_optimiser_state(learner.optimiser, names, found.tensors[OPTIMISER])
    if learner.ema is not None:
        learner.ema.set_state(found.tensors.get(EMA, {}))
    if found.progress.scaler:
        learner.scaler.load_state_dict(dict(found.progress.scaler))


def footing(train: TrainConfig, fit: Fit) -> dict[str, str]:
    """What the next bits may depend on besides a run's identity, kept with every checkpoint."""
    return {
        **library_versions(),
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "train.processes": str(train.processes),
        "train.micro_batch": str(train.micro_batch),
        "compute.checkpointing": fit.checkpointing,
        "compute.compile": str(fit.compile),
        "compute.attention": fit.attention,
    }


def say_where_it_goes_on(found: Checkpoint, now: Mapping[str, str], events: Recorder) -> None:
    """Write down the step, and what may change the last bits from here on."""
    events.write("resumed", step=found.progress.step)
    changed = [
        f"{name} was {found.footing.get(name)} and is {now[name]}"
        for name in now
        if found.footing.get(name) != now[name]
    ]
    if changed:
        text = (
            "resumed on another footing: the same clips, noise and timesteps follow in the same "
            f"order, but the last bits may differ: {'; '.join(changed)}"
        )
        events.write("warning", text=text)
