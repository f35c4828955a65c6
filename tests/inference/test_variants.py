"""All five members of the family generate what diffusers' own pipelines do, pixel for pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.variants import ImageScale
from tests.fixtures.family import (
    MEMBERS,
    TEXT_TOKENS,
    TEXT_WIDTH,
    BaseOf,
    Member,
    draws,
    pipeline_of,
)

SEED = 3


def embed(prompt: str) -> Tensor:
    """An embedding of its own for every prompt: these bases have no text encoder."""
    return draws(TEXT_TOKENS, TEXT_WIDTH, seed=sum(prompt.encode()))


def picture(member: Member, seed: int = 0) -> np.ndarray:
    size = member.size
    return np.random.default_rng(seed).integers(0, 256, (size.height, size.width, 3), np.uint8)


def request_for(member: Member, **changes: object) -> Request:
    wanted = {
        "prompt": "a kite",
        "negative_prompt": "rain",
        "seed": SEED,
        "size": member.size,
        "fps": 8,
        "sampling": Sampling(steps=2, guidance=6.0, sampler="dpm"),
        "image_hwc": picture(member) if member.image_to_video else None,
    }
    return Request(**{**wanted, **changes})


def in_plain_diffusers(base: Path, member: Member, request: Request) -> np.ndarray:
    """diffusers' own pipeline, called as its examples call it."""
    image = {} if request.image_hwc is None else {"image": Image.fromarray(request.image_hwc)}
    video = pipeline_of(base, member)(
        **image,
        prompt_embeds=embed(request.prompt)[None],
        negative_prompt_embeds=embed(request.negative_prompt)[None],
        height=request.size.height,
        width=request.size.width,
        num_frames=request.size.frames,
        num_inference_steps=request.sampling.steps,
        guidance_scale=request.sampling.guidance,
        use_dynamic_cfg=request.sampling.dynamic_guidance,
        max_sequence_length=TEXT_TOKENS,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).frames[0]
    return np.rint(video * 255).astype(np.uint8)


def scale_of_diffusers(member: Member) -> ImageScale | None:
    if not member.image_to_video:
        return None
    return "divided" if member.inverts_image_scale else "multiplied"


def open_member(base_of: BaseOf, member: Member, **choices: object) -> Session:
    chosen = {
        "dtype": "float32",
        "fingerprint": "f" * 64,
        "prompts": embed,
        "image_scale": scale_of_diffusers(member),
    }
    return Session.open(base_of(member), **{**chosen, **choices})


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_every_member_generates_what_plain_diffusers_does(
    base_of: BaseOf, member: Member, dynamic: bool
) -> None:
    session = open_member(base_of, member)
    sampling = Sampling(steps=2, guidance=6.0, sampler="dpm", dynamic_guidance=dynamic)
    request = request_for(member, sampling=sampling)
    ours = session.generate(request)
    size = member.size
    assert session.facts.variant.name == member.name
    assert ours.shape == (size.frames, size.height, size.width, 3)
    assert np.array_equal(ours, in_plain_diffusers(base_of(member), member, request))
