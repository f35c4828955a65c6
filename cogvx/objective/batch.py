"""What the transformer is shown: clips and captions from records, noise and timesteps drawn.

A batch is a pure function of the run's seed, the update, the micro-batch and the process, so a
resumed run sees what it would have seen, and batches may be drawn ahead.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from cogvx.errors import IntegrityError
from cogvx.objective.latents import draw_latents, image_track, pad_front
from cogvx.objective.objective import Objective
from cogvx.objective.randomness import generator
from cogvx.objective.records import Records
from cogvx.objective.sampler import Sampler
from cogvx.recipe_sections import TrainConfig
from cogvx.runs.folder import Sample


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one process.

    Latents are scaled and padded to whole temporal patches, and noise is of their shape, both
    float32; timesteps stay on the CPU; prompts are in the precision they were stored in. Images are
    of the latents' shape too: scaled first frames, zeros elsewhere; None for text-to-video bases.
    """

    latents_bfchw: Tensor
    noise_bfchw: Tensor
    timesteps_b: Tensor
    prompts_bsd: Tensor
    images_bfchw: Tensor | None = None


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
        images = [row.images_bfchw for row in rows if row.images_bfchw is not None]
        return Batch(
            latents_bfchw=torch.cat([row.latents_bfchw for row in rows]).to(device),
            noise_bfchw=torch.cat([row.noise_bfchw for row in rows]).to(device),
            timesteps_b=torch.cat([row.timesteps_b for row in rows]),
            prompts_bsd=torch.cat([row.prompts_bsd for row in rows]).to(device),
            images_bfchw=torch.cat(images).to(device) if images else None,
        )

    def _row(self, sample: Sample, step: int, position: int) -> Batch:
        """One sample with the draws of its position."""
        facts, place = self.objective.facts, _Place(self.train.seed, step, position)
        latents_bfchw = pad_front(
            _posterior(self.records.moments(sample), facts.scaling_factor, place.draw("posterior")),
            facts.patch_t,
        )
        return Batch(
            latents_bfchw=latents_bfchw,
            noise_bfchw=torch.randn(latents_bfchw.shape, generator=place.draw("noise")),
            timesteps_b=self._timestep_b(place),
            prompts_bsd=self._prompt(sample, place).unsqueeze(0),
            images_bfchw=self._images(sample, latents_bfchw, place),
        )

    def _timestep_b(self, place: "_Place") -> Tensor:
        """Any timestep as likely as any other, alone; stratified, spread out over the batch.

        Of G equal parts of the schedule, position p takes one part, and no other position takes it.
        Which one changes from update to update, or a clip might meet the same part every epoch.
        """
        timesteps, parts = self.objective.schedule.timesteps, self.train.global_batch
        draw = place.draw("timestep")
        if self.train.timesteps == "uniform":
            return torch.randint(timesteps, (1,), generator=draw)
        part = _parts(parts, place.seed, place.step)[place.position]
        # float64: in float32 some products fall below the whole number that they are
        share_b = torch.rand(1, generator=draw, dtype=torch.float64)
        return ((part + share_b) * timesteps / parts).long().clamp(max=timesteps - 1)

    def _prompt(self, sample: Sample, place: "_Place") -> Tensor:
        if not place.happens("caption", self.train.caption_dropout):
            return self.records.prompt(sample.prompt)
        empty = self.records.prompt(self.empty_prompt)
        return empty if self.train.caption_dropout_with == "empty" else torch.zeros_like(empty)

    def _images(self, sample: Sample, latents_bfchw: Tensor, place: "_Place") -> Tensor | None:
        """One of the noised first frames, drawn from its posterior, or nothing but zeros."""
        if self.objective.image_scale is None:
            return None
        if place.happens("image dropout", self.train.image_dropout):
            return torch.zeros_like(latents_bfchw)
        draws = max(len(sample.images), 1)  # a clip without any is refused when it is read
        number = int(torch.randint(draws, (), generator=place.draw("image")))
        moments_cfhw = self.records.image(sample, number)
        image_bfchw = _posterior(
            moments_cfhw, self.objective.image_factor, place.draw("image posterior")
        )
        if image_bfchw.shape != latents_bfchw[:, :1].shape:
            raise IntegrityError(
                f"record {sample.images[number]} is {tuple(moments_cfhw.shape)}, which is no first "
                f"frame of {sample.size} latents; cache {sample.clip} again"
            )
        return image_track(image_bfchw, latents_bfchw.shape[1])


@dataclass(frozen=True)
class _Place:
    """A position in the global batch of an update; it has a draw of its own for every purpose."""

    seed: int
    step: int
    position: int

    def draw(self, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose, self.step, self.position)

    def happens(self, purpose: str, share: float) -> bool:
        """Whether something happens here that happens to this share of the samples."""
        return bool(torch.rand((), generator=self.draw(purpose)) < share)


@lru_cache(maxsize=4)
def _parts(parts: int, seed: int, step: int) -> tuple[int, ...]:
    """Which part of the schedule each position of an update's global batch draws from."""
    return tuple(torch.randperm(parts, generator=generator(seed, "parts", step)).tolist())


def _posterior(moments_cfhw: Tensor, factor: float, draw: torch.Generator) -> Tensor:
    """A fresh draw `(1, f, c, h, w)` from a record, scaled."""
    moments_bcfhw = moments_cfhw.unsqueeze(0)
    noise_bcfhw = torch.randn(moments_bcfhw.chunk(2, dim=1)[0].shape, generator=draw)
    return draw_latents(moments_bcfhw, noise_bcfhw, scaling_factor=factor)
