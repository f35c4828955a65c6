"""Rotary tables are those of the pipelines, for every kind of CogVideoX and at any size."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from cogvx.model.rotary import rotary_tables
from cogvx.shapes import VideoSize, frames_to_prepend
from cogvx.variants import read_facts


@dataclass(frozen=True)
class Member:
    """The traits of a published model, on a transformer of one narrow layer."""

    name: str
    pipeline: type
    traits: dict[str, object]


V15 = {"patch_size_t": 2, "sample_height": 300, "sample_width": 300, "sample_frames": 81}
MEMBERS = [
    Member("CogVideoX-2b", CogVideoXPipeline, {"use_rotary_positional_embeddings": False}),
    Member("CogVideoX-5b", CogVideoXPipeline, {}),
    Member(
        "CogVideoX-5b-I2V",
        CogVideoXImageToVideoPipeline,
        {"in_channels": 8, "use_learned_positional_embeddings": True},
    ),
    Member("CogVideoX1.5-5B", CogVideoXPipeline, V15),
    Member(
        "CogVideoX1.5-5B-I2V",
        CogVideoXImageToVideoPipeline,
        {**V15, "in_channels": 8, "ofs_embed_dim": 8},
    ),
]
SIZES = [
    VideoSize(49, 480, 720),
    VideoSize(49, 720, 480),
    VideoSize(9, 256, 384),
    VideoSize(81, 768, 1360),
    VideoSize(81, 1360, 768),
]


def build(member: Member) -> object:
    """A pipeline whose parts have the published compression and sample sizes."""
    traits = {
        "num_attention_heads": 1,
        "attention_head_dim": 64,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": 8,
        "num_layers": 1,
        "sample_height": 60,
        "sample_width": 90,
        "sample_frames": 49,
        "use_rotary_positional_embeddings": True,
        **member.traits,
    }
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(2, 2, 2, 2),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=1,
        scaling_factor=0.7,
    )
    return member.pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=CogVideoXTransformer3DModel(**traits),
        scheduler=CogVideoXDPMScheduler(prediction_type="v_prediction"),
    )


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_tables_equal_the_pipelines(member: Member, tmp_path: Path) -> None:
    pipeline = build(member)
    for part in ("vae", "transformer", "scheduler"):
        getattr(pipeline, part).save_config(tmp_path / part)
    facts = read_facts(tmp_path)
    assert facts.variant.name == member.name
    for size in SIZES:
        ours = rotary_tables(facts, size, "cpu")
        if member.name == "CogVideoX-2b":
            assert ours is None
            continue
        assert ours is not None
        frames = facts.compression.latent(size).frames
        frames += frames_to_prepend(frames, facts.patch_t)
        theirs = pipeline._prepare_rotary_positional_embeddings(
            size.height, size.width, frames, torch.device("cpu")
        )
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert ours[0].shape == (facts.tokens(size) - facts.text_tokens, 64)
        assert ours[0].dtype == torch.float32
