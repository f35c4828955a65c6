"""Rotary positions of the video's tokens, equal to those that the pipelines generate with.

A trainer that computes them in another way teaches the adapter positions that it never meets again.
"""

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor

from cogvx.shapes import VideoSize, frames_to_prepend
from cogvx.variants import BaseFacts


def rotary_tables(
    facts: BaseFacts, size: VideoSize, device: torch.device | str
) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines for every video token, `(s, head_dim)` in float32.

    1.0 stretches the grid over the part of its native frame that the aspect leaves; 1.5 cuts it out
    of the largest grid, over frames padded to whole temporal patches.

    Args:
        facts: The base model; its native size is the frame that positions refer to.
        size: The video in pixels.
        device: Where the tables are made.

    Returns:
        None for a model with fixed positions (2b).

    Raises:
        ValueError: The video does not divide evenly into latents.

    Source: diffusers `CogVideoXPipeline._prepare_rotary_positional_embeddings`.
    """
    if not facts.variant.rotary:
        return None
    latent = facts.compression.latent(size)
    native_step = facts.compression.spatial * facts.patch
    native = (facts.sample_size.height // native_step, facts.sample_size.width // native_step)
    grid = (latent.height // facts.patch, latent.width // facts.patch)
    tables: tuple[Tensor, Tensor]
    if facts.patch_t is None:
        tables = get_3d_rotary_pos_embed(
            embed_dim=facts.head_dim,
            crops_coords=get_resize_crop_region_for_grid(grid, native[1], native[0]),
            grid_size=grid,
            temporal_size=latent.frames,
            device=device,
        )
    else:
        frames = latent.frames + frames_to_prepend(latent.frames, facts.patch_t)
        tables = get_3d_rotary_pos_embed(
            embed_dim=facts.head_dim,
            crops_coords=None,
            grid_size=grid,
            temporal_size=frames // facts.patch_t,
            grid_type="slice",
            max_size=native,
            device=device,
        )
    return tables
