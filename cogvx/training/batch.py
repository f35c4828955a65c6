"""What the transformer is shown: clips and captions from records, noise and timesteps drawn.

A batch is a pure function of the run's seed, the update, the micro-batch and the process, so a
resumed run sees what it would have seen, and batches may be drawn ahead.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cogvx.errors import IntegrityError
from cogvx.recipe_sections import TrainConfig
from cogvx.training.dataset import Records
from cogvx.training.objective import Objective, draw_latents, pad_front
from cogvx.training.randomness import generator
from cogvx.training.run import Sample
from cogvx.training.sampler import Sampler


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one process.

    Latents are scaled and padded to whole temporal patches, and noise is of their shape, both
    float32; timesteps stay on the CPU; prompts are in the precision they were stored in.
    """

    latents_bfchw: Tensor
    noise_bfchw: Tensor
    timesteps_b: Tensor
    prompts_bsd: Tensor


@dataclass(frozen=True)
class Batches:
    """Draws micro-batches. `empty_prompt` names the record that caption dropout puts in."""

    records: Records
    samples: tuple[Sample, ...]
    empty_prompt: str
    objective: Objective
    train: TrainConfig

    @cached_property
    def sampler(self) -> Sampler:
        """The order of the windows."""
        return Sampler.of([sample.size for sample in self.samples], self.train)

    def draw(self, step: int, *, micro: int, rank: int, device: torch.device) -> Batch:
        """The micro-batch of update `step`, counted from 0, on the device.

        Raises:
            IntegrityError: A record is absent or damaged, or is not of its bucket's size.
        """
        sampler = self.sampler
        rows = [
            self._row(self.samples[sampler.clip(step, position)], step, position)
            for position in sampler.positions(micro, rank)
        ]
        sizes = {tuple(row.latents_bfchw.shape) for row in rows}
        if len(sizes) > 1:
            raise IntegrityError(f"clips of different sizes meet in one batch: {sorted(sizes)}")
        return Batch(
            latents_bfchw=torch.cat([row.latents_bfchw for row in rows]).to(device),
            noise_bfchw=torch.cat([row.noise_bfchw for row in rows]).to(device),
            timesteps_b=torch.cat([row.timesteps_b for row in rows]),
            prompts_bsd=torch.cat([row.prompts_bsd for row in rows]).to(device),
        )

    def _row(self, sample: Sample, step: int, position: int) -> Batch:
        """One sample with the draws of its position."""
        seed, facts = self.train.seed, self.objective.facts
        moments_bcfhw = self.records.moments(sample).unsqueeze(0)
        posterior_bcfhw = torch.randn(
            moments_bcfhw.chunk(2, dim=1)[0].shape,
            generator=generator(seed, "posterior", step, position),
        )
        latents_bfchw = pad_front(
            draw_latents(moments_bcfhw, posterior_bcfhw, scaling_factor=facts.scaling_factor),
            facts.patch_t,
        )
        timesteps_b = torch.randint(
            self.objective.schedule.timesteps,
            (1,),
            generator=generator(seed, "timestep", step, position),
        )
        drop = torch.rand((), generator=generator(seed, "caption", step, position))
        dropped = bool(drop < self.train.caption_dropout)
        prompt = self.records.prompt(self.empty_prompt if dropped else sample.prompt)
        return Batch(
            latents_bfchw=latents_bfchw,
            noise_bfchw=torch.randn(
                latents_bfchw.shape, generator=generator(seed, "noise", step, position)
            ),
            timesteps_b=timesteps_b,
            prompts_bsd=prompt.unsqueeze(0),
        )
