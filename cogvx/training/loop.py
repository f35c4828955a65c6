"""The training loop: draw, noise, predict, score, step, record."""

import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from cogvx.objective.noise import send
from cogvx.objective.objective import Objective
from cogvx.recipe_sections import TrainConfig
from cogvx.training.ema import Ema
from cogvx.training.journal import Journal
from cogvx.training.metrics import Scores
from cogvx.training.optimiser import clip_gradients, lr_at, step_if
from cogvx.training.prefetch import Feed
from cogvx.training.stop import Stop, Stopping


@dataclass(frozen=True)
class Learner:
    """What changes while training, and what it is changed with.

    `model` is the transformer with its adapter, wrapped when there are several processes.
    `parameters` are the adapter's. `scaler` does nothing except for a float16 base on a GPU.
    `ema` is None unless the recipe asks for a running mean.
    """

    accelerator: Accelerator
    model: nn.Module
    parameters: tuple[nn.Parameter, ...]
    optimiser: Optimizer
    scaler: torch.amp.GradScaler
    objective: Objective
    feed: Feed
    train: TrainConfig
    ema: Ema | None = None


def train(learner: Learner, journal: Journal, stop: Stop) -> None:
    """Train from where the journal stands to the last update, or until it is time to stop.

    A stop drops the update that is under way. Its draws are addressed, so it will come again with
    the same bits.

    Raises:
        TrainingDiverged: Too many updates in a row were skipped.
        IntegrityError: A record is damaged.
    """
    with suppress(Stopping):
        for step in range(journal.step, learner.train.steps):
            if journal.stops_early:
                break
            scores = accumulate(learner, step, stop)
            journal.expect(step + 1)
            norm = update(learner, step)
            journal.record(step + 1, scores, norm)


def accumulate(learner: Learner, step: int, stop: Stop | None = None) -> Scores:
    """Add up the gradients of one update's micro-batches.

    Gradients end as those of the mean weighted loss over the global batch; processes exchange them
    once, in the last micro-batch.

    Returns:
        The losses of this process's share.

    Raises:
        Stopping: A stop was agreed on before the last micro-batch; no gradient is left.
    """
    accelerator, parts = learner.accelerator, learner.train.accumulation
    losses, timesteps, waited = [], [], 0.0
    for micro in range(parts):
        if stop is not None and stop.agreed():
            learner.optimiser.zero_grad(set_to_none=True)  # a part of an update is none
            raise Stopping
        asked = time.perf_counter()
        batch = learner.feed.take(step, micro)
        waited += time.perf_counter() - asked
        apart = micro < parts - 1
        with accelerator.no_sync(learner.model) if apart else nullcontext():
            loss_b = learner.objective.loss_b(
                learner.model,
                batch.latents_bfchw,
                noise_bfchw=batch.noise_bfchw,
                timesteps_b=batch.timesteps_b,
                prompts_bsd=batch.prompts_bsd,
                images_bfchw=batch.images_bfchw,
            )
            weights_b = send(learner.objective.weights_b(batch.timesteps_b), loss_b.device)
            loss = (weights_b * loss_b).mean() / parts
            # nan where the loss is not finite, else 1: its gradient might be finite all the same.
            # So it reaches the exchanged gradient, and no process need ask the others
            seed = 1 + 0 * loss.detach()
            torch.autograd.backward(learner.scaler.scale(loss), seed)
        losses.append(loss_b.detach())
        timesteps.append(batch.timesteps_b)
    return Scores(torch.cat(losses), torch.cat(timesteps), waited_seconds=waited)


def update(learner: Learner, step: int) -> Tensor:
    """Clip the gradient of the whole global batch, and move the weights once.

    Where the gradient is not finite, weights, optimiser and mean stay as they are.

    Returns:
        The gradient's norm before clipping, on the device; the same in all processes.
    """
    learner.scaler.unscale_(learner.optimiser)
    norm = clip_gradients(learner.parameters, learner.train.max_grad_norm)
    for group in learner.optimiser.param_groups:
        group["lr"] = lr_at(step, learner.train)
    finite = norm.isfinite()
    step_if(learner.optimiser, finite)
    if learner.ema is not None:
        learner.ema.update(finite)
    learner.scaler.update()
    learner.optimiser.zero_grad(set_to_none=True)
    return norm
