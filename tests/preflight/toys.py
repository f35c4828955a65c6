"""Real transformers at toy size, the facts that describe them, and recipes for them."""

from dataclasses import replace
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.variants import PUBLISHED, BaseFacts

TEXT = 10


def toy_facts(name: str, *, layers: int = 2, heads: int = 2, side: int = 128) -> BaseFacts:
    """A published model's kind, small; `side` in pixels."""
    facts = PUBLISHED[name]
    size = VideoSize(9 if facts.patch_t is None else 13, side, side)
    return replace(
        facts,
        layers=layers,
        heads=heads,
        text_tokens=TEXT,
        text_dim=24,
        time_dim=48,
        sample_size=size,
    )


def build(facts: BaseFacts) -> CogVideoXTransformer3DModel:
    """The frozen transformer that the facts describe, on the device that is the default."""
    side = facts.compression.spatial
    return (
        CogVideoXTransformer3DModel(
            num_attention_heads=facts.heads,
            attention_head_dim=facts.head_dim,
            in_channels=facts.in_channels,
            out_channels=facts.out_channels,
            time_embed_dim=facts.time_dim,
            ofs_embed_dim=facts.time_dim if facts.variant.has_ofs else None,
            text_embed_dim=facts.text_dim,
            num_layers=facts.layers,
            sample_width=facts.sample_size.width // side,
            sample_height=facts.sample_size.height // side,
            sample_frames=facts.sample_size.frames,
            patch_size=facts.patch,
            patch_size_t=facts.patch_t,
            max_text_seq_length=facts.text_tokens,
            use_rotary_positional_embeddings=facts.variant.rotary,
            use_learned_positional_embeddings=facts.variant.learned_positions,
        )
        .eval()
        .requires_grad_(requires_grad=False)
    )


def inputs(facts: BaseFacts, *, clips: int, dtype: torch.dtype) -> dict[str, Any]:
    """What the transformer is shown at its native size."""
    latent = facts.compression.latent(facts.sample_size)
    frames = latent.frames + (latent.frames % (facts.patch_t or 1))
    shape = (clips, frames, facts.in_channels, latent.height, latent.width)
    video = facts.tokens(facts.sample_size) - facts.text_tokens
    rotary: tuple[Tensor, Tensor] | None = None
    if facts.variant.rotary:
        rotary = (torch.randn(video, facts.head_dim), torch.randn(video, facts.head_dim))
    return {
        "hidden_states": torch.randn(shape).to(dtype),
        "encoder_hidden_states": torch.randn(clips, facts.text_tokens, facts.text_dim).to(dtype),
        "timestep": torch.full((clips,), 500),
        "ofs": torch.full((1,), 2.0) if facts.variant.has_ofs else None,
        "image_rotary_emb": rotary,
        "return_dict": False,
    }


def recipe(name: str, **sections: Any) -> Recipe:
    """A recipe for a published base at its usual size."""
    variant = PUBLISHED[name].variant
    height, width = (768, 1360) if variant.slices_rotary else (480, 720)
    written: dict[str, Any] = {
        "name": "toy",
        "base": {"path": f"zai-org/{name}", "dtype": variant.dtype},
        "dataset": {"uri": "clips"},
        "video": {
            "frames": variant.usual_size.frames,
            "height": height,
            "width": width,
            "fps": variant.fps,
        },
        "train": {"steps": 1000},
        "evaluation": {"suite": "suite.toml"},
    }
    for section, values in sections.items():
        written[section] = {**written.get(section, {}), **values}
    return Recipe.model_validate(written)
