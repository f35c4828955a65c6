"""Published figures of the real models, from their configurations alone: nothing is downloaded."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from cogvx.model.lora import attach_lora
from cogvx.model.rotary import rotary_tables
from cogvx.recipe_sections import LoraConfig
from cogvx.shapes import VideoSize, frames_to_prepend
from cogvx.variants import PUBLISHED, BaseFacts

NATIVE = VideoSize(49, 480, 720)
WIDE = VideoSize(81, 768, 1360)


def transformer_of(facts: BaseFacts) -> CogVideoXTransformer3DModel:
    """The real transformer without any weights, and with one of its blocks: all are alike."""
    variant, size = facts.variant, facts.sample_size
    with torch.device("meta"):
        return CogVideoXTransformer3DModel(
            num_attention_heads=facts.heads,
            attention_head_dim=facts.head_dim,
            in_channels=facts.in_channels,
            out_channels=facts.out_channels,
            num_layers=1,
            time_embed_dim=512,
            ofs_embed_dim=512 if variant.has_ofs else None,
            text_embed_dim=facts.text_dim,
            sample_frames=size.frames,
            sample_height=size.height // 8,
            sample_width=size.width // 8,
            patch_size=facts.patch,
            patch_size_t=facts.patch_t,
            max_text_seq_length=facts.text_tokens,
            use_rotary_positional_embeddings=variant.rotary,
            use_learned_positional_embeddings=variant.learned_positions,
        )


@pytest.mark.parametrize(
    ("name", "billions", "tensors", "millions"),
    [
        ("CogVideoX-2b", 1.6938, 240, 58.98),
        ("CogVideoX-5b", 5.5703, 336, 132.12),
        ("CogVideoX-5b-I2V", 5.5705, 336, 132.12),
        ("CogVideoX1.5-5B", 5.5707, 336, 132.12),
        ("CogVideoX1.5-5B-I2V", 5.5716, 336, 132.12),
    ],
)
def test_the_base_and_an_adapter_of_rank_128_have_the_published_numbers_of_parameters(
    name: str, billions: float, tensors: int, millions: float
) -> None:
    transformer, layers = transformer_of(PUBLISHED[name]), PUBLISHED[name].layers
    with_one_block = sum(part.numel() for part in transformer.parameters())
    block = sum(part.numel() for part in transformer.transformer_blocks.parameters())
    count = with_one_block + (layers - 1) * block
    assert count / 1e9 == pytest.approx(billions, abs=5e-5)
    adapter = attach_lora(transformer, LoraConfig(rank=128, alpha=64), seed=0)
    assert len(adapter) * layers == tensors
    numbers = sum(part.numel() for part in adapter) * layers
    assert numbers / 1e6 == pytest.approx(millions, abs=5e-3)
    if name == "CogVideoX-5b-I2V":
        assert transformer.patch_embed.pos_embedding.numel() / 1e6 == pytest.approx(54.6, abs=0.05)


@pytest.mark.parametrize(
    ("name", "size", "latents", "padded"),
    [
        ("CogVideoX-5b", NATIVE, 2_246_400, 13),
        ("CogVideoX1.5-5B", WIDE, 10_967_040, 22),
    ],
)
def test_latents_and_captions_have_the_published_numbers_of_bytes(
    name: str, size: VideoSize, latents: int, padded: int
) -> None:
    facts = PUBLISHED[name]
    latent = facts.compression.latent(size)
    numbers = facts.latent_channels * latent.frames * latent.height * latent.width
    assert numbers * torch.bfloat16.itemsize == latents
    assert latent.frames + frames_to_prepend(latent.frames, facts.patch_t) == padded
    assert facts.text_tokens * facts.text_dim * torch.bfloat16.itemsize == 1_851_392


def test_stretched_and_sliced_positions_are_equal_at_the_native_size_of_5b() -> None:
    stretched = rotary_tables(PUBLISHED["CogVideoX-5b"], NATIVE, "cpu")
    sliced = get_3d_rotary_pos_embed(
        embed_dim=64,
        crops_coords=None,
        grid_size=(30, 45),
        temporal_size=13,
        grid_type="slice",
        max_size=(30, 45),
    )
    assert stretched is not None
    assert all(torch.equal(one, other) for one, other in zip(stretched, sliced, strict=True))
    # elsewhere they are not: a trainer that slices teaches 1.0 positions that it never meets again
    portrait = rotary_tables(PUBLISHED["CogVideoX-5b"], VideoSize(49, 720, 480), "cpu")
    cut = get_3d_rotary_pos_embed(
        embed_dim=64,
        crops_coords=None,
        grid_size=(45, 30),
        temporal_size=13,
        grid_type="slice",
        max_size=(45, 30),
    )
    assert portrait is not None
    assert (portrait[0] - cut[0]).abs().max() > 1


def test_positions_of_1_5_do_not_depend_on_the_grid_that_they_are_cut_from() -> None:
    tables = rotary_tables(PUBLISHED["CogVideoX1.5-5B"], WIDE, "cpu")
    own = get_3d_rotary_pos_embed(
        embed_dim=64,
        crops_coords=None,
        grid_size=(48, 85),
        temporal_size=11,
        grid_type="slice",
        max_size=(48, 85),
    )
    assert tables is not None
    assert all(torch.equal(one, other) for one, other in zip(tables, own, strict=True))
