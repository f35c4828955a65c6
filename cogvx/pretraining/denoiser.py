"""The second half of pretraining: the transformer, and with it T5, learn what captions look like.

It is the objective that adapters are trained with, except that the text encoder learns too and that
products are taken in bfloat16.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from cogvx.model.load import TextEncoder
from cogvx.objective.latents import draw_latents
from cogvx.objective.objective import Objective, v_loss_b
from cogvx.objective.randomness import generator
from cogvx.pretraining.optimiser import Optimiser, rate_at
from cogvx.pretraining.quick_attention import Float32Attention
from cogvx.pretraining.state import Journal, load_state, save_state

_HIGHEST_RATE = 2e-3
_GRADIENT_NORM = 1.0
_EMPTY_SHARE = 0.1  # captions left out, which guidance needs
_BATCH = 24


@dataclass(frozen=True)
class Lessons:
    """Every clip to learn from, in memory: posteriors, and captions in the same order."""

    moments_bcfhw: Tensor
    captions: Sequence[str]
    scaling_factor: float


@dataclass(frozen=True)
class Pupils:
    """The two models that learn together."""

    transformer: CogVideoXTransformer3DModel
    text: TextEncoder

    def parameters(self) -> dict[str, nn.Parameter]:
        """Of both, by name."""
        parts = {"transformer": self.transformer, "text_encoder": self.text.encoder}
        return {
            f"{part}.{name}": parameter
            for part, model in parts.items()
            for name, parameter in model.named_parameters()
        }

    def learning(self, *, on: bool) -> None:
        """Let both learn, or freeze them for use."""
        for model in (self.transformer, self.text.encoder):
            model.requires_grad_(requires_grad=on).train(mode=on)


def train_denoiser(
    pupils: Pupils,
    lessons: Lessons,
    state: Path,
    *,
    objective: Objective,
    steps: int,
    seed: int,
    journal: Journal,
) -> None:
    """Train in place, going on from `state` where it exists.

    Raises:
        IntegrityError: The state is damaged, or of another model.
    """
    parameters = pupils.parameters()
    pupils.learning(on=True)
    optimiser = Optimiser(parameters)
    progress = load_state(state, parameters, optimiser=optimiser)
    tokens_bs = tokenise(pupils.text, ["", *lessons.captions], objective.facts.text_tokens)
    saved = time.monotonic()
    begun = saved - progress.seconds
    losses: list[float] = []
    for step in range(progress.step, steps):
        loss = _loss(pupils, lessons, tokens_bs, objective=objective, place=(seed, step))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters.values(), _GRADIENT_NORM)
        optimiser.step(rate_at(step, steps=steps, highest=_HIGHEST_RATE))
        progress.step, progress.seconds = step + 1, time.monotonic() - begun
        losses.append(float(loss.detach()))
        if time.monotonic() - saved >= journal.save_seconds or progress.step == steps:
            save_state(state, parameters, optimiser=optimiser, progress=progress)
            saved = time.monotonic()
        if progress.step % journal.every == 0:
            mean = sum(losses) / len(losses)
            losses.clear()
            journal.report(
                f"denoiser {progress.step}/{steps} loss {mean:.4f} {progress.seconds:.0f} s"
            )
    pupils.learning(on=False)


def tokenise(text: TextEncoder, captions: Sequence[str], length: int) -> Tensor:
    """Token numbers `(b, s)`, padded to `length`, as `encode_prompts` makes them."""
    tokens = text.tokenizer(
        list(captions),
        padding="max_length",
        max_length=length,
        truncation=True,
        add_special_tokens=True,
        return_tensors="pt",
    )
    numbers: Tensor = tokens.input_ids
    return numbers


def _loss(
    pupils: Pupils,
    lessons: Lessons,
    tokens_bs: Tensor,
    *,
    objective: Objective,
    place: tuple[int, int],
) -> Tensor:
    seed, step = place
    draw = generator(seed, "denoiser", step)
    chosen_b = torch.randint(len(lessons.captions), (_BATCH,), generator=draw)
    moments_bcfhw = lessons.moments_bcfhw[chosen_b]
    mean, _ = moments_bcfhw.chunk(2, dim=1)
    latents_bfchw = draw_latents(
        moments_bcfhw,
        torch.randn(mean.shape, generator=draw),
        scaling_factor=lessons.scaling_factor,
    )
    noise_bfchw = torch.randn(latents_bfchw.shape, generator=draw)
    timesteps_b = _spread_timesteps(objective.schedule.timesteps, draw)
    shown_b = torch.rand(_BATCH, generator=draw) >= _EMPTY_SHARE
    where = {"noise_bfchw": noise_bfchw, "timesteps_b": timesteps_b}
    with torch.autocast("cpu", dtype=torch.bfloat16), Float32Attention():
        prompts_bsd = pupils.text.encoder(tokens_bs[torch.where(shown_b, chosen_b + 1, 0)])[0]
        predicted_bfchw = pupils.transformer(
            hidden_states=objective.schedule.add_noise(latents_bfchw, **where),
            encoder_hidden_states=prompts_bsd,
            timestep=timesteps_b,
            image_rotary_emb=objective.rotary(latents_bfchw),
            return_dict=False,
        )[0]
    return v_loss_b(predicted_bfchw, objective.schedule.velocity(latents_bfchw, **where)).mean()


def _spread_timesteps(timesteps: int, draw: torch.Generator) -> Tensor:
    """One timestep from each equal part of the schedule: as good as uniform, and less noisy."""
    parts_b = torch.arange(_BATCH) + torch.rand(_BATCH, generator=draw)
    return (parts_b * (timesteps / _BATCH)).long().clamp(max=timesteps - 1)
