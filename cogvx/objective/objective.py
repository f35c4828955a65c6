"""What the adapter learns: the velocity that leads from noised latents back to the clip.

Pure: tensors in, tensors out, no randomness. Noise is added, and error measured, in float32: see
`cogvx.objective.noise`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from cogvx.errors import ConfigError
from cogvx.model.image_scale import image_factor, image_scale_of
from cogvx.model.rotary import rotary_tables
from cogvx.objective.noise import NoiseSchedule, send
from cogvx.objective.precision import casting
from cogvx.shapes import LatentSize
from cogvx.variants import OFS, BaseFacts, ImageScale, read_facts

Rotary = tuple[Tensor, Tensor] | None


def predict_velocity(
    transformer: CogVideoXTransformer3DModel,
    facts: BaseFacts,
    *,
    noisy_bfchw: Tensor,
    images_bfchw: Tensor | None,
    timesteps_b: Tensor,
    prompts_bsd: Tensor,
    rotary: Rotary,
) -> Tensor:
    """Ask the transformer, in its own precision (see `precision`), for the velocity in float32.

    Args:
        transformer: Bare, or wrapped for distribution.
        facts: Of the base.
        noisy_bfchw: Padded to whole temporal patches.
        images_bfchw: Their first frames as `image_track` makes them; None for text-to-video bases.
        timesteps_b: As they were used to add the noise.
        prompts_bsd: Embedded captions, padding included: no CogVideoX masks it.
        rotary: From `rotary_tables`, on the transformer's device.

    Raises:
        ValueError: The base starts from an image and there is none, or the other way round.

    Source: diffusers `CogVideoXImageToVideoPipeline.__call__`.
    """
    if facts.variant.image_to_video != (images_bfchw is not None):
        raise ValueError(f"{facts.variant.name} and images_bfchw do not go together")
    device = noisy_bfchw.device
    dtype: torch.dtype = getattr(transformer, "module", transformer).dtype
    shown_bfchw = noisy_bfchw.to(dtype)
    if images_bfchw is not None:
        shown_bfchw = torch.cat([shown_bfchw, images_bfchw.to(device, dtype)], dim=2)
    ofs = torch.full((1,), OFS, device=device, dtype=dtype) if facts.variant.has_ofs else None
    with casting(dtype, device.type):
        output: Tensor = transformer(
            hidden_states=shown_bfchw,
            encoder_hidden_states=prompts_bsd.to(device, dtype),
            timestep=send(timesteps_b, device),
            ofs=ofs,
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
    return output.float()


def v_loss_b(predicted_bfchw: Tensor, velocity_bfchw: Tensor) -> Tensor:
    """Mean squared error of each sample, in float32.

    Equal to the official loss on the clip, weighted by 1 / (1 - a), which loses digits on the way.

    Source: CogVideo `finetune`; `x0 - x0' = sqrt(1 - a) (v' - v)`.
    """
    return (predicted_bfchw.float() - velocity_bfchw.float()).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Objective:
    """The loss over one base model, at whatever size the latents have.

    `image_scale` is None for a text-to-video base; `min_snr_gamma` 0 weighs all timesteps alike.
    """

    facts: BaseFacts
    schedule: NoiseSchedule
    image_scale: ImageScale | None
    min_snr_gamma: float
    _tables: dict[tuple[LatentSize, torch.device], Rotary] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls, base: Path, *, image_scale: ImageScale | None = None, min_snr_gamma: float = 0.0
    ) -> Self:
        """Read what can be read from the base's own folder.

        Raises:
            ConfigError: The folder is no CogVideoX, or the scale is none that it has.
        """
        facts = read_facts(base)
        return cls(
            facts=facts,
            schedule=NoiseSchedule.from_base(base),
            image_scale=image_scale_of(facts.variant, image_scale),
            min_snr_gamma=min_snr_gamma,
        )

    @property
    def image_factor(self) -> float:
        """What a first frame's latent is multiplied by; only for image-to-video bases."""
        assert self.image_scale is not None
        return image_factor(self.image_scale, self.facts.scaling_factor)

    def weights_b(self, timesteps_b: Tensor) -> Tensor:
        """What each sample's loss counts when gradients are made; float32, on the CPU."""
        if not self.min_snr_gamma:
            return torch.ones(timesteps_b.shape)
        return self.schedule.min_snr_weights(timesteps_b, self.min_snr_gamma)

    def rotary(self, latents_bfchw: Tensor) -> Rotary:
        """Rotary tables for latents padded to whole temporal patches, on their device.

        Made once for each shape: a run has as many as its recipe has buckets.

        Raises:
            ConfigError: The base has positions for another size only. diffusers would put fixed
                positions in the place of 5b-I2V's learned ones when the frames are others.
        """
        _, frames, _, height, width = latents_bfchw.shape
        latent = LatentSize(frames, height, width)
        place = (latent, latents_bfchw.device)
        if place not in self._tables:
            # The padding counts as video here: what is even already is padded no further.
            size = self.facts.compression.video(latent)
            if self.facts.variant.fixed_size and size != self.facts.sample_size:
                raise ConfigError(
                    f"latents are of a {size} clip, but {self.facts.variant.name} has positions "
                    f"for {self.facts.sample_size} only"
                )
            self._tables[place] = rotary_tables(self.facts, size, latents_bfchw.device)
        return self._tables[place]

    def loss_b(
        self,
        transformer: Any,
        latents_bfchw: Tensor,
        *,
        noise_bfchw: Tensor,
        timesteps_b: Tensor,
        prompts_bsd: Tensor,
        images_bfchw: Tensor | None = None,
    ) -> Tensor:
        """Noise, predict, score: the loss of each sample, float32, unweighted.

        Latents and first frames are scaled and padded, and on the transformer's device like the
        noise; timesteps stay on the CPU.
        """
        where = {"noise_bfchw": noise_bfchw, "timesteps_b": timesteps_b}
        predicted = predict_velocity(
            transformer,
            self.facts,
            noisy_bfchw=self.schedule.add_noise(latents_bfchw, **where),
            images_bfchw=images_bfchw,
            timesteps_b=timesteps_b,
            prompts_bsd=prompts_bsd,
            rotary=self.rotary(latents_bfchw),
        )
        return v_loss_b(predicted, self.schedule.velocity(latents_bfchw, **where))
