"""diffusers' pipelines over one base, with the first frame scaled as its adapters learned it."""

from pathlib import Path
from typing import Any, TypeAlias

from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from torch import Tensor

from cogvx.model.image_scale import image_factor
from cogvx.model.load import load_scheduler, load_transformer, load_vae
from cogvx.variants import BaseFacts, DType, ImageScale

Pipeline: TypeAlias = "CogVideoXPipeline | CogVideoXImageToVideoPipeline"


class ScaledImagePipeline(CogVideoXImageToVideoPipeline):  # type: ignore[misc]
    """Image-to-video with a stated scale of the first frame's latent; all else is diffusers'.

    diffusers scales it as the VAE's configuration says. Whoever trained an adapter may have scaled
    it otherwise, and up to twice as large or small is what over-exposes the videos of 1.5.
    """

    image_factor: float
    vae_scaling_factor_image: float

    @classmethod
    def of(cls, image_factor: float, **parts: Any) -> "ScaledImagePipeline":
        """Take parts, and what a first frame's latent is multiplied by.

        Not `__init__`, in whose arguments diffusers looks for the names of the parts.
        """
        pipeline = cls(**parts)
        pipeline.image_factor = image_factor
        return pipeline

    def prepare_latents(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As diffusers does, but for the scale.

        The attribute that decides it decides the scale of the decoded video, too, so it is changed
        for this step alone.

        Source: diffusers `CogVideoXImageToVideoPipeline.prepare_latents` and `decode_latents`.
        """
        decoding = self.vae_scaling_factor_image
        inverted = self.vae.config.invert_scale_latents
        self.vae_scaling_factor_image = 1 / self.image_factor if inverted else self.image_factor
        try:
            prepared: tuple[Tensor, Tensor] = super().prepare_latents(*args, **kwargs)
        finally:
            self.vae_scaling_factor_image = decoding
        return prepared


def load_pipeline(
    base_folder: Path,
    facts: BaseFacts,
    *,
    dtype: DType,
    device: str,
    image_scale: ImageScale | None,
) -> Pipeline:
    """Load the parts of a base, but for its text encoder, which only new prompts need.

    Raises:
        ConfigError: The folder holds no such parts.
        IntegrityError: A part's weights are not all there.
    """
    parts = {
        "tokenizer": None,
        "text_encoder": None,
        "vae": load_vae(base_folder, dtype=dtype, device=device),
        "transformer": load_transformer(base_folder, dtype=dtype, device=device),
        "scheduler": load_scheduler(base_folder, facts.variant.sampler),
    }
    if image_scale is None:
        pipeline = CogVideoXPipeline(**parts)
    else:
        factor = image_factor(image_scale, facts.scaling_factor)
        pipeline = ScaledImagePipeline.of(factor, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
