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
from cogvx.shapes import LatentSize, frames_to_prepend
from cogvx.variants import BaseFacts, read_facts

# Bounds of the posterior's log-variance, as diffusers `DiagonalGaussianDistribution` has them.
_LOG_VARIANCE_MIN, _LOG_VARIANCE_MAX = -30.0, 20.0

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

    def _signal_and_sigma(self, timesteps_b: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alphas_b = self.alphas_cumprod[timesteps_b.cpu()]
        shape = (-1, *(1 for _ in like.shape[1:]))
        signal, sigma = alphas_b.sqrt().float(), (1 - alphas_b).sqrt().float()
        return signal.view(shape).to(like.device), sigma.view(shape).to(like.device)


def draw_latents(moments_bcfhw: Tensor, noise_bcfhw: Tensor, *, scaling_factor: float) -> Tensor:
    """Draw from the posterior that the VAE gave, and bring it to the transformer's layout.

    Args:
        moments_bcfhw: Mean and log-variance stacked on channels, unscaled, in any precision.
        noise_bcfhw: Standard normal, of the mean's shape.
        scaling_factor: The VAE's; every variant is trained on multiplied latents, 1.5 too.

    Returns:
        Scaled latents `(b, f, c, h, w)`, float32.

    Source: diffusers `DiagonalGaussianDistribution.sample`.
    """
    mean, log_variance = moments_bcfhw.float().chunk(2, dim=1)
    std = torch.exp(0.5 * log_variance.clamp(_LOG_VARIANCE_MIN, _LOG_VARIANCE_MAX))
    return _to_transformer(mean + std * noise_bcfhw, scaling_factor)


def mean_latents(moments_bcfhw: Tensor, *, scaling_factor: float) -> Tensor:
    """The posterior's mean in the transformer's layout: the clip without the VAE's own noise."""
    mean, _ = moments_bcfhw.float().chunk(2, dim=1)
    return _to_transformer(mean, scaling_factor)


def pad_front(latents_bfchw: Tensor, patch_t: int | None) -> Tensor:
    """Put copies of the first latent in front, so that temporal patches come out even.

    Source: CogVideo `finetune/models/cogvideox_t2v/lora_trainer.py`; arXiv:2408.06072 (1.5).
    """
    copies = frames_to_prepend(latents_bfchw.shape[1], patch_t)
    return torch.cat([latents_bfchw[:, :1]] * copies + [latents_bfchw], dim=1)


def predict_velocity(
    transformer: CogVideoXTransformer3DModel,
    facts: BaseFacts,
    *,
    noisy_bfchw: Tensor,
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
        timesteps_b: As they were used to add the noise.
        prompts_bsd: Embedded captions, padding included: no CogVideoX masks it.
        rotary: From `rotary_tables`, on the transformer's device.

    Raises:
        ConfigError: The base needs an image as well, which is not trained yet.
    """
    require_text_to_video(facts)
    device = noisy_bfchw.device
    dtype: torch.dtype = getattr(transformer, "module", transformer).dtype
    mixed = device.type == "cuda" and dtype != torch.float32
    with torch.autocast(device.type, dtype=dtype if mixed else None, enabled=mixed):
        output: Tensor = transformer(
            hidden_states=noisy_bfchw.to(dtype),
            encoder_hidden_states=prompts_bsd.to(device, dtype),
            timestep=timesteps_b.to(device),
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


def require_text_to_video(facts: BaseFacts) -> None:
    """Refuse a base that starts from an image.

    Raises:
        ConfigError: The base is of an image-to-video kind.
    """
    if facts.variant.image_to_video:
        raise ConfigError(
            f"base.path holds {facts.variant.name}, which starts from an image and is not trained "
            "yet; use CogVideoX-2b, CogVideoX-5b or CogVideoX1.5-5B"
        )


@dataclass(frozen=True)
class Objective:
    """The loss over one base model, at whatever size the latents have."""

    facts: BaseFacts
    schedule: NoiseSchedule
    _tables: dict[tuple[LatentSize, torch.device], Rotary] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, base: Path) -> Self:
        """Read everything from the base's own folder.

        Raises:
            ConfigError: The folder is no CogVideoX, or one that starts from an image.
        """
        facts = read_facts(base)
        require_text_to_video(facts)
        return cls(facts=facts, schedule=NoiseSchedule.from_base(base))

    def rotary(self, latents_bfchw: Tensor) -> Rotary:
        """Rotary tables for latents padded to whole temporal patches, on their device.

        Made once for each shape: a run has as many as its recipe has buckets.
        """
        _, frames, _, height, width = latents_bfchw.shape
        latent = LatentSize(frames, height, width)
        place = (latent, latents_bfchw.device)
        if place not in self._tables:
            # The padding counts as video here: what is even already is padded no further.
            size = self.facts.compression.video(latent)
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
    ) -> Tensor:
        """Noise, predict, score: the loss of each sample, float32.

        Latents are scaled and padded, and on the transformer's device like the noise; timesteps
        stay on the CPU.
        """
        where = {"noise_bfchw": noise_bfchw, "timesteps_b": timesteps_b}
        predicted = predict_velocity(
            transformer,
            self.facts,
            noisy_bfchw=self.schedule.add_noise(latents_bfchw, **where),
            timesteps_b=timesteps_b,
            prompts_bsd=prompts_bsd,
            rotary=self.rotary(latents_bfchw),
        )
        return v_loss_b(predicted, self.schedule.velocity(latents_bfchw, **where))


def _to_transformer(latents_bcfhw: Tensor, scaling_factor: float) -> Tensor:
    return (latents_bcfhw * scaling_factor).transpose(1, 2).contiguous()
