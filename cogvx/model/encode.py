"""Between people's media and the transformer's: video to latents and back, captions to embeddings.

Everything runs without gradients, in the precision that the given parts were loaded in.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from cogvx.errors import DataError
from cogvx.model.load import TextEncoder
from cogvx.shapes import Compression, VideoSize

# Changing the law means changing `cogvx.cache.keys.IMAGE_NOISE`.
_LOG_SIGMA_MEAN, _LOG_SIGMA_STD = -3.0, 0.5


@torch.no_grad()
def encode_video(vae: AutoencoderKLCogVideoX, rgb_bcfhw: Tensor) -> Tensor:
    """Encode video into the parameters of the VAE's posterior.

    The parameters are kept rather than a sample, so that every epoch can draw fresh latents.

    Args:
        vae: Frozen, on its device, in the dtype to encode in.
        rgb_bcfhw: RGB in [-1, 1]; sizes as `Compression.latent` allows.

    Returns:
        Mean and log-variance stacked on channels, `(b, 2c, f, h, w)`, in the VAE's dtype and
        unscaled: multiply a sample by `vae.config.scaling_factor` before adding noise.

    Raises:
        DataError: The clip does not divide evenly into latents, or overflows the VAE's dtype.

    Source: diffusers `AutoencoderKLCogVideoX.encode`; paper arXiv:2408.06072.
    """
    compression = Compression(
        temporal=int(vae.config.temporal_compression_ratio),
        spatial=2 ** (len(vae.config.block_out_channels) - 1),
    )
    try:
        compression.latent(VideoSize(*rgb_bcfhw.shape[2:]))
    except ValueError as error:
        raise DataError(f"a clip does not divide into latents: {error}") from error
    moments_bcfhw: Tensor = vae.encode(
        rgb_bcfhw.to(device=vae.device, dtype=vae.dtype)
    ).latent_dist.parameters
    if not moments_bcfhw.isfinite().all():
        raise DataError(f"a clip's latents are not finite in {vae.dtype}; encode in float32")
    return moments_bcfhw


@torch.no_grad()
def encode_image(
    vae: AutoencoderKLCogVideoX, rgb_chw: Tensor, generator: torch.Generator
) -> Tensor:
    """Encode a first frame with noise on its pixels, as image-to-video bases were trained to see.

    The strength of the noise is drawn first, sigma = exp(N(-3, 0.5)), 0.05 or so of a range of 2;
    then the noise. Both are drawn, and added, in float32 on the CPU, so that every device sees the
    same pixels.

    Args:
        vae: As for `encode_video`.
        rgb_chw: RGB in [-1, 1], float32; not clamped after the noise.
        generator: Of the CPU.

    Returns:
        Mean and log-variance stacked on channels, `(2c, 1, h, w)`, as `encode_video` gives them.

    Raises:
        DataError: As `encode_video`.

    Source: SAT `diffusion_video.py`; diffusers `train_cogvideox_image_to_video_lora.py`.
    """
    log_sigma = torch.normal(_LOG_SIGMA_MEAN, _LOG_SIGMA_STD, (1,), generator=generator)
    noise_chw = torch.randn(rgb_chw.shape, generator=generator)
    noised_chw = rgb_chw + log_sigma.exp() * noise_chw
    return encode_video(vae, noised_chw[None, :, None])[0]


@torch.no_grad()
def encode_prompts(text: TextEncoder, captions: Sequence[str], max_length: int) -> Tensor:
    """Encode captions as the CogVideoX pipelines do: padded to `max_length`, nothing masked.

    The model was trained on the embeddings of the padding too; a mask would be new to it.

    Returns:
        `(b, s, d)` with s = `max_length` tokens, in the encoder's dtype; a longer caption is cut.

    Source: diffusers `CogVideoXPipeline._get_t5_prompt_embeds`.
    """
    tokens = text.tokenizer(
        list(captions),
        padding="max_length",
        max_length=max_length,
        truncation=True,
        add_special_tokens=True,
        return_tensors="pt",
    )
    embeds_bsd: Tensor = text.encoder(tokens.input_ids.to(text.encoder.device))[0]
    return embeds_bsd.to(text.encoder.dtype)


@torch.no_grad()
def decode_latents(vae: AutoencoderKLCogVideoX, latents_bcfhw: Tensor) -> Tensor:
    """Decode scaled latents, as the transformer sees them, into RGB in [-1, 1].

    Raises:
        DataError: The number of latent frames is even: the VAE decodes them in pairs, the first
            alone, and gives 8 frames instead of 5.

    Source: diffusers `CogVideoXPipeline.decode_latents`, `AutoencoderKLCogVideoX._decode`.
    """
    latent_frames = latents_bcfhw.shape[2]
    if latent_frames % 2 == 0:
        raise DataError(f"{latent_frames} latent frames cannot be decoded; use an odd number")
    scaled = latents_bcfhw.to(device=vae.device, dtype=vae.dtype)
    rgb_bcfhw: Tensor = vae.decode(1 / vae.config.scaling_factor * scaled).sample
    return rgb_bcfhw.clamp(-1, 1)


def to_pixels(rgb_cfhw: Tensor) -> np.ndarray:
    """RGB in [-1, 1], on any device, as people's programs take it: `fhwc`, uint8."""
    scaled = rgb_cfhw.float().permute(1, 2, 3, 0).add(1).mul(127.5).round().clamp(0, 255)
    rgb_fhwc: np.ndarray = scaled.to(torch.uint8).cpu().numpy()
    return rgb_fhwc


def decibels(error: float) -> float:
    """PSNR of a mean squared error over a range of 2, from -1 to 1; infinite for none."""
    return math.inf if error == 0 else 10 * math.log10(4 / error)
