"""A checkpoint is recognised by its configuration, and the table agrees with the real classes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from torch import nn

from cogvx.adapters.layout import linear_modules
from cogvx.errors import ConfigError
from cogvx.shapes import VideoSize
from cogvx.variants import PUBLISHED, VARIANTS, BaseFacts, default_size, published_facts, read_facts

TRAITS: dict[str, dict[str, Any]] = {
    "CogVideoX-2b": {},
    "CogVideoX-5b": {"use_rotary_positional_embeddings": True},
    "CogVideoX-5b-I2V": {
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
        "in_channels": 8,
    },
    "CogVideoX1.5-5B": {"use_rotary_positional_embeddings": True, "patch_size_t": 2},
    "CogVideoX1.5-5B-I2V": {
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "in_channels": 8,
        "ofs_embed_dim": 8,
    },
}


def save_tiny(folder: Path, **traits: Any) -> CogVideoXTransformer3DModel:
    """A checkpoint of toy width with the traits of one variant, under a name that says nothing."""
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=4,
        **{"in_channels": 4, **traits},
    )
    transformer.save_pretrained(folder / "transformer")
    AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=1,
    ).save_pretrained(folder / "vae")
    CogVideoXDPMScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    return transformer


@pytest.mark.parametrize("name", [variant.name for variant in VARIANTS])
def test_a_checkpoint_is_recognised_by_its_configuration(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "CogVideoX-2b"  # a lie, for four of five
    transformer = save_tiny(folder, **TRAITS[name])
    facts = read_facts(folder)
    assert facts.variant.name == name
    assert facts.compression.spatial == 2
    assert facts.compression.temporal == 4
    assert facts.text_tokens == 4
    linears = {
        module_name.removeprefix("transformer_blocks.0.")
        for module_name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }
    named = {
        name.removeprefix("transformer_blocks.0.")
        for name in linear_modules(facts.layers, patch_t=facts.patch_t)
    }
    assert linears - {"ofs_embedding.linear_1", "ofs_embedding.linear_2"} == named


def test_the_table_holds_the_published_sizes() -> None:
    big = PUBLISHED["CogVideoX-5b"]
    assert (big.layers, big.heads, big.head_dim) == (42, 48, 64)
    assert (PUBLISHED["CogVideoX-2b"].layers, PUBLISHED["CogVideoX-2b"].heads) == (30, 30)
    assert PUBLISHED["CogVideoX-2b"].scaling_factor == 1.15258426
    assert published_facts("zai-org/CogVideoX-5b") == big
    assert published_facts("someone/CogVideoX-5b") is None


def test_a_folder_that_is_no_cogvideox_is_refused_with_its_missing_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"transformer/config\.json is missing"):
        read_facts(tmp_path)
    save_tiny(tmp_path)
    config = tmp_path / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "Other"}))
    with pytest.raises(ConfigError, match="describes Other"):
        read_facts(tmp_path)


@pytest.mark.parametrize(("name", "facts"), PUBLISHED.items())
def test_the_default_size_is_the_published_one_and_never_the_grid_of_positions(
    name: str, facts: BaseFacts
) -> None:
    usual = VideoSize(81, 768, 1360) if "1.5" in name else VideoSize(49, 480, 720)
    assert default_size(facts) == usual
    if "1.5" in name:  # a copy of its configuration gives the size in the grid's place
        assert default_size(replace(facts, sample_size=usual)) == usual
    small = VideoSize(17, 64, 96)
    assert default_size(replace(facts, sample_size=small)) == small
    if not facts.variant.fixed_size:
        odd = VideoSize(facts.variant.frame_step + 5, 64, 96)
        rounded = default_size(replace(facts, sample_size=odd))
        assert rounded == VideoSize(facts.variant.frame_step + 1, 64, 96)
