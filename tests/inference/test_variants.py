"""All five members of the family generate what diffusers' own pipelines do, pixel for pixel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from PIL import Image
from torch import Tensor

from cogvx.errors import ConfigError, IntegrityError
from cogvx.inference.pipelines import ScaledImagePipeline
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.encode import encode_video
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.load import load_vae
from cogvx.objective.latents import draw_latents, image_track
from cogvx.objective.objective import Objective
from cogvx.shapes import VideoSize, frames_to_prepend
from cogvx.variants import ImageScale
from tests.adapters.toys import toy_adapter
from tests.fixtures.family import (
    IMAGE_MEMBERS,
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


def picture(size: VideoSize) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)


def request_for(member: Member, **changes: object) -> Request:
    wanted = {
        "prompt": "a kite",
        "negative_prompt": "rain",
        "seed": SEED,
        "size": member.size,
        "fps": 8,
        "sampling": Sampling(steps=2, guidance=6.0, sampler="dpm"),
        "image_hwc": picture(member.size) if member.image_to_video else None,
    }
    return Request(**{**wanted, **changes})


def in_plain_diffusers(base: Path, member: Member, request: Request) -> np.ndarray:
    """diffusers' own pipeline, called as its examples call it."""
    image = {} if request.image_hwc is None else {"image": Image.fromarray(request.image_hwc)}
    pipeline = pipeline_of(base, member)
    if request.sampling.sampler == "ddim":
        pipeline.scheduler = CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config)
    video = pipeline(
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
        "prompts": lambda prompt, _encode: embed(prompt),
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


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_other_sizes_and_the_other_sampler_are_those_of_plain_diffusers(
    base_of: BaseOf, member: Member
) -> None:
    session = open_member(base_of, member)
    rule = session.facts.variant.frame_step
    for size in (member.size, *member.others):
        if (size.frames - 1) % rule:
            continue
        request = request_for(
            member, size=size, sampling=Sampling(steps=2, guidance=1.0, sampler="ddim")
        )
        if member.image_to_video:
            request = replace(request, image_hwc=picture(size))
        assert np.array_equal(
            session.generate(request), in_plain_diffusers(base_of(member), member, request)
        )


@pytest.mark.parametrize("scale", ["multiplied", "divided", "raw"])
@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_the_first_frame_is_scaled_and_placed_as_in_training(
    base_of: BaseOf, member: Member, scale: ImageScale
) -> None:
    """What the transformer is shown beside the noise, against what a batch shows it."""
    if member.patch_t is None and scale != "multiplied":
        return
    session = open_member(base_of, member, image_scale=scale)
    request = request_for(member)
    shown = images_shown(session, request)

    objective = Objective.of(base_of(member), image_scale=scale)
    vae = load_vae(base_of(member), dtype="float32")
    rgb_chw = torch.from_numpy(request.image_hwc).permute(2, 0, 1) / 127.5 - 1
    moments_bcfhw = encode_video(vae, rgb_chw[None, :, None])
    # the pipeline draws the image before it draws noise
    noise = draws(*moments_bcfhw.chunk(2, dim=1)[0].shape, seed=SEED)
    image_bfchw = draw_latents(moments_bcfhw, noise, scaling_factor=objective.image_factor)
    latent = session.facts.compression.latent(request.size)
    frames = latent.frames + frames_to_prepend(latent.frames, member.patch_t)
    trained = image_track(image_bfchw, frames)
    assert all(torch.equal(images, shown[0]) for images in shown), "the same at every step"
    assert shown[0].shape[0] == 2, "and for the guidance's other half"
    torch.testing.assert_close(shown[0], torch.cat([trained] * 2), rtol=1e-5, atol=1e-6)


def images_shown(session: Session, request: Request) -> list[Tensor]:
    """The image's channels of all that the transformer is given while a video is generated."""
    shown: list[Tensor] = []

    def look(_module: object, _arguments: object, named: dict[str, Tensor]) -> None:
        shown.append(named["hidden_states"].chunk(2, dim=2)[1].clone())

    hook = session.transformer.register_forward_pre_hook(look, with_kwargs=True)
    session.generate(request)
    hook.remove()
    return shown


@pytest.mark.parametrize("factor", [1.0, 0.7, 1 / 0.7])
def test_decoding_is_not_scaled_by_the_first_frames_scale(base_of: BaseOf, factor: float) -> None:
    member = IMAGE_MEMBERS[-1]
    pipeline = ScaledImagePipeline.of(factor, **pipeline_of(base_of(member), member).components)
    latents = draws(1, 2, 4, 4, 4)
    theirs = pipeline_of(base_of(member), member).decode_latents(latents)
    image = torch.zeros(1, 3, 16, 16)
    pipeline.prepare_latents(image, 1, 4, 5, 16, 16, torch.float32, "cpu", None)
    assert torch.equal(pipeline.decode_latents(latents), theirs)


def test_what_the_first_frame_is_scaled_with_must_be_said_for_1_5_alone(base_of: BaseOf) -> None:
    fixed, free = IMAGE_MEMBERS
    assert open_member(base_of, fixed, image_scale=None).image_scale == "multiplied"
    with pytest.raises(ConfigError, match=r'image_scale is missing; use "multiplied", "divided" o'):
        open_member(base_of, free, image_scale=None)
    with pytest.raises(ConfigError, match=r'"raw" is not for CogVideoX-5b-I2V; use "multiplied"'):
        open_member(base_of, fixed, image_scale="raw")
    with pytest.raises(ConfigError, match='"raw" is not for CogVideoX-5b; leave it out'):
        open_member(base_of, MEMBERS[1], image_scale="raw")


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_a_precision_that_breaks_a_base_is_refused(base_of: BaseOf, member: Member) -> None:
    bad = "bfloat16" if member.name == "CogVideoX-2b" else "float16"
    with pytest.raises(ConfigError, match=f'dtype = "{bad}" overflows or loses precision'):
        open_member(base_of, member, dtype=bad)


def test_steps_are_counted_as_they_are_done(base_of: BaseOf) -> None:
    heard: list[tuple[int, int]] = []
    request = request_for(MEMBERS[1], sampling=Sampling(steps=4, guidance=1.0, sampler="dpm"))
    session = open_member(base_of, MEMBERS[1])
    video = session.generate(request, on_step=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert np.array_equal(session.generate(request), video)


def test_a_session_knows_its_base_and_refuses_an_adapter_of_another(
    nano_base: Path, tmp_path: Path
) -> None:
    session = Session.open(nano_base, dtype="float32")
    assert session.fingerprint == fingerprint(nano_base, BASE_PARTS)
    elsewhere = Session.open(nano_base, dtype="float32", fingerprint="e" * 64)
    adapter = toy_adapter(nano_base, tmp_path)
    session.attach("ours", adapter)
    with pytest.raises(IntegrityError) as caught:
        elsewhere.attach("foreign", adapter)
    for named in (session.fingerprint[:12], "e" * 12):
        assert named in str(caught.value)
