"""The first half of pretraining: the VAE learns to draw the world's clips again.

Clips are rendered as they are needed and none is seen twice; those that quality is measured on come
from another seed.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from cogvx.model.encode import encode_video
from cogvx.model.nano.build import FRAMES, SIDE
from cogvx.model.nano.world import Scene, draw_scene, render
from cogvx.objective.randomness import generator
from cogvx.pretraining.optimiser import Optimiser, rate_at
from cogvx.pretraining.quick_vae import quick
from cogvx.pretraining.state import Journal, load_state, save_state

UNSEEN_SEED = 990_000  # no pretraining draws clips from this seed

_HIGHEST_RATE = 2e-3
_GRADIENT_NORM = 1.0
_LATENT_WEIGHT = 1e-6  # of the latents' square: the only pull towards a normal distribution
_BATCH = 16


@dataclass(frozen=True)
class Lesson:
    """A part of the training: steps on batches of clips of one size."""

    steps: int
    frames: int
    side: int
    batch: int


# Small pictures teach colours and edges at a tenth of a clip's cost, small clips then motion; begun
# with full clips, the same quality takes several times as long.
EARLY = (Lesson(400, 1, 32, 16), Lesson(300, FRAMES, SIDE // 2, 6))
FULL = Lesson(0, FRAMES, SIDE, 4)


def train_vae(
    vae: AutoencoderKLCogVideoX, state: Path, *, steps: int, seed: int, journal: Journal
) -> None:
    """Train in place, going on from `state` where it exists.

    The absolute error is minimised: squares would let it leave flat colours a little wrong. Work is
    done in bfloat16 where that is safe, on weights in float32.

    Raises:
        IntegrityError: The state is damaged, or of another model.
    """
    parameters = dict(vae.requires_grad_(requires_grad=True).train().named_parameters())
    optimiser = Optimiser(parameters)
    progress = load_state(state, parameters, optimiser=optimiser)
    saved = time.monotonic()
    begun = saved - progress.seconds
    with quick(vae):
        for step in range(progress.step, steps):
            lesson, first = lesson_at(step)
            scenes = [draw_scene(seed, first + place) for place in range(lesson.batch)]
            rgb_bcfhw = draw_clips(scenes, frames=lesson.frames, side=lesson.side)
            loss = _loss(vae, rgb_bcfhw, generator(seed, "posterior", step))
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters.values(), _GRADIENT_NORM)
            optimiser.step(rate_at(step, steps=steps, highest=_HIGHEST_RATE))
            progress.step, progress.seconds = step + 1, time.monotonic() - begun
            if time.monotonic() - saved >= journal.save_seconds or progress.step == steps:
                save_state(state, parameters, optimiser=optimiser, progress=progress)
                saved = time.monotonic()
            if progress.step % journal.every == 0:
                journal.report(
                    f"vae {progress.step}/{steps} loss {loss:.4f} {progress.seconds:.0f} s"
                )
    vae.requires_grad_(requires_grad=False).eval()


def lesson_at(step: int) -> tuple[Lesson, int]:
    """The lesson of a step, and the number of its first clip; full clips come last."""
    seen = 0
    for lesson in EARLY:
        if step < lesson.steps:
            return lesson, seen + step * lesson.batch
        step -= lesson.steps
        seen += lesson.steps * lesson.batch
    return FULL, seen + step * FULL.batch


def draw_clips(scenes: Iterable[Scene], *, frames: int, side: int) -> Tensor:
    """Clips of scenes, RGB in [-1, 1], `(b, c, f, h, w)`."""
    clips_bfhwc = np.stack([render(scene, frames=frames, size=side) for scene in scenes])
    return torch.from_numpy(clips_bfhwc).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def encode_world(vae: AutoencoderKLCogVideoX, scenes: Sequence[Scene]) -> Iterator[Tensor]:
    """Posteriors of the world's clips, `(b, 2c, f, h, w)`, a batch at a time."""
    with quick(vae):
        for start in range(0, len(scenes), _BATCH):
            clips = draw_clips(scenes[start : start + _BATCH], frames=FRAMES, side=SIDE)
            yield encode_video(vae, clips)


def normalise(vae: AutoencoderKLCogVideoX, moments_bcfhw: Tensor) -> None:
    """Set the scaling factor by which the latents get a standard deviation of 1."""
    mean, log_variance = moments_bcfhw.chunk(2, dim=1)
    spread = (mean.var() + log_variance.exp().mean()).sqrt()
    vae.register_to_config(scaling_factor=round(1.0 / float(spread), 4))


@torch.no_grad()
def measure_psnr(vae: AutoencoderKLCogVideoX, *, clips: int) -> tuple[float, ...]:
    """Peak signal to noise in dB of each unseen clip, encoded and decoded again, as uint8."""
    results: list[float] = []
    scenes = [draw_scene(UNSEEN_SEED, number) for number in range(clips)]
    for start in range(0, clips, _BATCH):
        rgb_bcfhw = draw_clips(scenes[start : start + _BATCH], frames=FRAMES, side=SIDE)
        again = vae.decode(vae.encode(rgb_bcfhw).latent_dist.mode()).sample.clamp(-1, 1)
        error = (((again + 1) * 127.5).round() - ((rgb_bcfhw + 1) * 127.5).round()) / 255
        results += (-10 * error.square().flatten(1).mean(1).log10()).tolist()
    return tuple(results)


def _loss(vae: AutoencoderKLCogVideoX, rgb_bcfhw: Tensor, draw: torch.Generator) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = vae.encode(rgb_bcfhw).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw)
        latents = posterior.mean + posterior.std * noise
        again = vae.decode(latents).sample
    missed = (again.float() - rgb_bcfhw).abs().mean()
    pull: Tensor = posterior.mean.float().square().mean()
    loss: Tensor = missed + _LATENT_WEIGHT * pull
    return loss
