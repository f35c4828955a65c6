"""How much noise a timestep means, and how much its loss weighs.

Noise is added in float32 from the scheduler's float64 table. In bfloat16 the first timesteps of 5b
would get no noise at all, and a perfect prediction would still score an error.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from cogvx.model.load import load_scheduler


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
        return send(signal.view(shape), like.device), send(sigma.view(shape), like.device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Put a small tensor of the CPU on a device, without waiting for what the device still does.

    From ordinary memory even a copy of one number waits for the whole step before it.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
