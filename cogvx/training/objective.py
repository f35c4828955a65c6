"""What the adapter learns: the velocity that leads from noised latents back to the clip.

Pure: tensors in, tensors out, no randomness. Noise is added, and error measured, in float32 from
the scheduler's float64 table. In bfloat16 the first timesteps of 5b would get no noise at all, and
a perfect prediction would still score an error.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from cogvx.errors import ConfigError
from cogvx.model.load import load_scheduler
from cogvx.model.rotary import rotary_tables
from cogvx.shapes import LatentSize
from cogvx.training.latents import image_factor, image_scale_of
from cogvx.variants import OFS, BaseFacts, ImageScale, read_facts

Rotary = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class NoiseSchedule:
    """How much of the clip is left at each timestep: `alphas_cumprod`, float64, on the CPU."""

    alphas_cumprod: Tensor

    @classmethod
    def from_base(cls, folder: Path) -> Self:
        """The schedule that the base model in `folder` was trained with.

        Raises:
            ConfigError: The folder holds no scheduler.
        """
        table = load_scheduler(folder, "dpm").alphas_cumprod
        return cls(alphas_cumprod=table.detach().double().cpu())

    @property
    def timesteps(self) -> int:
        """Number of timesteps, 1000 for every CogVideoX."""
        return len(self.alphas_cumprod)

    def add_noise(
        self, latents_bfchw: Tensor, *, noise_bfchw: Tensor, timesteps_b: Tensor
    ) -> Tensor:
        """`sqrt(a) x + sqrt(1 - a) noise` in float32.

        Args:
            latents_bfchw: Scaled latents.
            noise_bfchw: Standard normal.
            timesteps_b: Whole numbers from 0 to `timesteps` - 1, on the CPU: there they are drawn,
                and looking them up there costs no wait for the device.

        Source: diffusers `CogVideoXDPMScheduler.add_noise`.
        """
        signal, sigma = self._signal_and_sigma(timesteps_b, latents_bfchw)
        return signal * latents_bfchw.float() + sigma * noise_bfchw.float()

    def velocity(
        self, latents_bfchw: Tensor, *, noise_bfchw: Tensor, timesteps_b: Tensor
    ) -> Tensor:
        """What the transformer should predict: `sqrt(a) noise - sqrt(1 - a) x` in float32.

        Source: diffusers `CogVideoXDPMScheduler.get_velocity`; arXiv:2202.00512, section 4.
        """
        signal, sigma = self._signal_and_sigma(timesteps_b, latents_bfchw)
        return signal * noise_bfchw.float() - sigma * latents_bfchw.float()

    def min_snr_weights(self, timesteps_b: Tensor, gamma: float) -> Tensor:
        """Min-SNR weights of the loss in v: `min(snr, gamma) / (snr + 1)`, float32, on the CPU.

        `snr = a / (1 - a)` makes that `min(a, gamma (1 - a))`, which is finite without noise and
        without signal: pure noise, the last timestep, weighs nothing.

        Source: arXiv:2303.09556, section 3.4 and appendix on v-prediction.
        """
        alphas_b = self.alphas_cumprod[timesteps_b.cpu()]
        return torch.minimum(alphas_b, gamma * (1 - alphas_b)).float()

    def _signal_and_sigma(self, timesteps_b: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alphas_b = self.alphas_cumprod[timesteps_b.cpu()]
        shape = (-1, *(1 for _ in like.shape[1:]))
        signal, sigma = alphas_b.sqrt().float(), (1 - alphas_b).sqrt().float()
        return signal.view(shape).to(like.device), sigma.view(shape).to(like.device)


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
    """Ask the transformer, in its own precision, for the velocity in float32.

    On a GPU a half-precision base runs under autocast, so that the float32 adapter multiplies in
    half precision too; on a CPU peft casts at each adapter's border, which is exact and slow.

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
    mixed = device.type == "cuda" and dtype != torch.float32
    with torch.autocast(device.type, dtype=dtype if mixed else None, enabled=mixed):
        output: Tensor = transformer(
            hidden_states=shown_bfchw,
            encoder_hidden_states=prompts_bsd.to(device, dtype),
            timestep=timesteps_b.to(device),
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
