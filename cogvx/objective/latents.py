"""From cached posteriors to latents as the transformer takes them: drawn, scaled, padded.

A clip's latents are multiplied by the VAE's factor, for every variant; `invert_scale_latents` in a
VAE's configuration is about the first frame of image-to-video models alone, and so is the recipe's
`image_latent_scale`. Pure: tensors in, tensors out, in float32.
"""

import torch
from torch import Tensor

from cogvx.shapes import frames_to_prepend

# Bounds of the posterior's log-variance, as diffusers `DiagonalGaussianDistribution` has them.
_LOG_VARIANCE_MIN, _LOG_VARIANCE_MAX = -30.0, 20.0


def draw_latents(moments_bcfhw: Tensor, noise_bcfhw: Tensor, *, scaling_factor: float) -> Tensor:
    """Draw from the posterior that the VAE gave, and bring it to the transformer's layout.

    Args:
        moments_bcfhw: Mean and log-variance stacked on channels, unscaled, in any precision.
        noise_bcfhw: Standard normal, of the mean's shape.
        scaling_factor: The VAE's for a clip, 1.5 too; for a first frame, that of
            `cogvx.model.image_scale`.

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


def image_track(image_bfchw: Tensor, frames: int) -> Tensor:
    """A first frame of one latent, then zeros, `frames` in all.

    It stands first also where the clip is padded in front: there the padding gets the image, and
    the clip's own first latent zeros.

    Args:
        image_bfchw: Scaled, one latent frame.
        frames: Latent frames of the padded clip.

    Source: diffusers `CogVideoXImageToVideoPipeline.__call__`, which counts the padding as frames
    before it prepares the image; CogVideo `finetune/models/cogvideox_i2v/lora_trainer.py`.
    """
    size, _, *rest = image_bfchw.shape
    return torch.cat([image_bfchw, image_bfchw.new_zeros(size, frames - 1, *rest)], dim=1)


def _to_transformer(latents_bcfhw: Tensor, scaling_factor: float) -> Tensor:
    return (latents_bcfhw * scaling_factor).transpose(1, 2).contiguous()
