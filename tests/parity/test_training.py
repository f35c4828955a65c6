"""What training shows the transformer, and how it scores it, against diffusers' own functions.

Nothing of the reference is ours: latents come from diffusers' VAE and posterior, first frames and
positions from its pipelines, noise and velocity from its scheduler in float64, and the loss is the
official one, on the clip and weighted.
"""

from typing import Any

import pytest
import torch
from diffusers import CogVideoXVideoToVideoPipeline
from diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video import retrieve_latents
from torch import Tensor

from cogvx.model.encode import encode_video
from cogvx.objective.latents import draw_latents, image_track, pad_front
from cogvx.objective.objective import Objective
from cogvx.shapes import VideoSize
from cogvx.variants import ImageScale
from tests.fixtures.family import (
    LATENT_CHANNELS,
    MEMBERS,
    TEXT_TOKENS,
    TEXT_WIDTH,
    BaseOf,
    Member,
    draws,
    generators,
    pipeline_of,
)

CLIP_SEEDS, IMAGE_SEEDS = (1, 2), (3, 4)
FACTORS: dict[ImageScale, float] = {"multiplied": 0.7, "divided": 1 / 0.7, "raw": 1.0}
V15_I2V = MEMBERS[-1]
CASES = [(member, None) for member in MEMBERS[:-1]] + [(V15_I2V, scale) for scale in FACTORS]
SIZED = [(member, size) for member in MEMBERS for size in (member.size, *member.others)]


def clips(size: VideoSize) -> Tensor:
    """Two clips in [-1, 1]."""
    return draws(2, 3, size.frames, size.height, size.width, seed=0).tanh()


def prompts() -> Tensor:
    return draws(2, TEXT_TOKENS, TEXT_WIDTH, seed=5)


def posterior_noise(moments_bcfhw: Tensor, seeds: tuple[int, int]) -> Tensor:
    """What diffusers draws for each sample from generators with these seeds."""
    shape = (1, *moments_bcfhw.chunk(2, dim=1)[0].shape[1:])
    return torch.cat([torch.randn(shape, generator=draw) for draw in generators(seeds)])


def ours(pipeline: Any, objective: Objective, rgb_bcfhw: Tensor) -> tuple[Tensor, Tensor | None]:
    """Latents and first frames as training makes them of what the cache holds."""
    facts = objective.facts
    moments = encode_video(pipeline.vae, rgb_bcfhw)
    noise = posterior_noise(moments, CLIP_SEEDS)
    latents = draw_latents(moments, noise, scaling_factor=facts.scaling_factor)
    padded = pad_front(latents, facts.patch_t)
    if not facts.variant.image_to_video:
        return padded, None
    moments = encode_video(pipeline.vae, rgb_bcfhw[:, :, :1])
    noise = posterior_noise(moments, IMAGE_SEEDS)
    image = draw_latents(moments, noise, scaling_factor=objective.image_factor)
    return padded, image_track(image, padded.shape[1])


def theirs(pipeline: Any, member: Member, rgb_bcfhw: Tensor) -> tuple[Tensor, Tensor | None]:
    """The same from the VAE and the pipeline; a first frame is scaled as the pipeline does it."""
    latents = [
        retrieve_latents(pipeline.vae.encode(clip.unsqueeze(0)), draw)
        for clip, draw in zip(rgb_bcfhw, generators(CLIP_SEEDS), strict=True)
    ]
    x0 = torch.cat(latents).permute(0, 2, 1, 3, 4) * member.scaling_factor
    size = VideoSize(*rgb_bcfhw.shape[2:])
    additional = 0
    if member.patch_t is not None:
        # CogVideo `finetune`: ncopy = latent_num_frames % patch_size_t
        additional = x0.shape[1] % member.patch_t
        x0 = torch.cat([x0[:, :1].repeat(1, additional, 1, 1, 1), x0], dim=1)
    if not member.image_to_video:
        return x0, None
    _, images = pipeline.prepare_latents(
        rgb_bcfhw[:, :, 0],
        batch_size=2,
        num_channels_latents=LATENT_CHANNELS,
        num_frames=size.frames + 4 * additional,
        height=size.height,
        width=size.width,
        dtype=torch.float32,
        device=torch.device("cpu"),
        generator=generators(IMAGE_SEEDS),
        latents=torch.zeros_like(x0),
    )
    return x0, images


def listen(transformer: Any) -> dict[str, Any]:
    """What the transformer is called with, from now on."""
    seen: dict[str, Any] = {}
    transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    return seen


def assert_close(one: Any, other: Any) -> None:
    """Equal within 1e-5, tensors, tuples of them and nothing."""
    if isinstance(one, tuple):
        for mine, yours in zip(one, other, strict=True):
            assert_close(mine, yours)
    elif one is None:
        assert other is None
    else:
        assert one.shape == other.shape
        assert float((one.double() - other.double()).abs().max()) < 1e-5


@pytest.mark.parametrize(("member", "scale"), CASES, ids=str)
@torch.no_grad()
def test_noised_latents_model_inputs_and_loss_equal_an_independent_computation(
    member: Member, scale: ImageScale | None, base_of: BaseOf
) -> None:
    pipeline = pipeline_of(base_of(member), member)
    scheduler, transformer = pipeline.scheduler, pipeline.transformer
    rgb, timesteps = clips(member.size), torch.tensor([7, 801])

    x0, images = theirs(pipeline, member, rgb)
    if scale is not None:
        assert images is not None
        images = images * FACTORS[scale] / FACTORS["divided"]
    noise = draws(*x0.shape, seed=6)
    noised = scheduler.add_noise(x0.double(), noise.double(), timesteps)
    shown = noised.float() if images is None else torch.cat([noised.float(), images], dim=2)
    config = transformer.config
    expected = {
        "hidden_states": shown,
        "encoder_hidden_states": prompts(),
        "timestep": timesteps,
        "ofs": None if config.ofs_embed_dim is None else noise.new_full((1,), 2.0),
        "image_rotary_emb": pipeline._prepare_rotary_positional_embeddings(
            member.size.height, member.size.width, x0.shape[1], "cpu"
        )
        if config.use_rotary_positional_embeddings
        else None,
    }
    output = transformer(**expected).sample
    x0_hat = scheduler.get_velocity(output.double(), noised, timesteps)
    weight = 1 / (1 - scheduler.alphas_cumprod[timesteps]).view(-1, 1, 1, 1, 1)
    official_b = (weight * (x0_hat - x0) ** 2).flatten(1).mean(1)

    objective = Objective.of(base_of(member), image_scale=scale)
    latents, track = ours(pipeline, objective, rgb)
    assert_close(latents, x0)
    assert_close(track, images)
    seen = listen(transformer)
    loss_b = objective.loss_b(
        transformer,
        latents,
        noise_bfchw=noise,
        timesteps_b=timesteps,
        prompts_bsd=prompts(),
        images_bfchw=track,
    )
    for name, value in expected.items():
        assert_close(seen[name], value)
    assert_close(loss_b, official_b)


@pytest.mark.parametrize(("member", "size"), SIZED, ids=str)
@torch.no_grad()
def test_the_last_timestep_is_trained_on_what_generation_begins_with(
    member: Member, size: VideoSize, base_of: BaseOf
) -> None:
    pipeline = pipeline_of(base_of(member), member)
    objective = Objective.of(base_of(member), image_scale="divided" if member is V15_I2V else None)
    rgb = clips(size)
    latents, track = ours(pipeline, objective, rgb)
    noise = draws(*latents.shape, seed=6)
    begun = listen(pipeline.transformer)
    image = {"image": (rgb[:, :, 0] + 1) / 2} if member.image_to_video else {}
    pipeline(
        **image,
        prompt_embeds=prompts(),
        latents=noise,
        num_frames=size.frames,
        height=size.height,
        width=size.width,
        num_inference_steps=1,
        guidance_scale=1.0,
        generator=generators(IMAGE_SEEDS),
        output_type="latent",
    )
    begun = dict(begun)
    trained = listen(pipeline.transformer)
    objective.loss_b(
        pipeline.transformer,
        latents,
        noise_bfchw=noise,
        timesteps_b=torch.tensor([999, 999]),
        prompts_bsd=prompts(),
        images_bfchw=track,
    )
    assert begun["timestep"].tolist() == [999, 999]
    for name in ("hidden_states", "encoder_hidden_states", "timestep", "image_rotary_emb"):
        assert_close(trained[name], begun[name])
    assert_close(trained["ofs"], begun.get("ofs"))


@pytest.mark.parametrize("member", MEMBERS[:2], ids=str)
@torch.no_grad()
def test_noised_latents_equal_the_video_to_video_pipelines(member: Member, base_of: BaseOf) -> None:
    pipeline, rgb, timesteps = pipeline_of(base_of(member), member), clips(member.size), [3, 960]
    where = torch.tensor(timesteps)
    noised = CogVideoXVideoToVideoPipeline(**pipeline.components).prepare_latents(
        video=rgb,
        batch_size=2,
        num_channels_latents=LATENT_CHANNELS,
        height=member.size.height,
        width=member.size.width,
        dtype=torch.float32,
        device=torch.device("cpu"),
        generator=generators(CLIP_SEEDS),
        timestep=where,
    )
    objective = Objective.of(base_of(member))
    latents, _ = ours(pipeline, objective, rgb)
    second = generators(CLIP_SEEDS)
    for draw in second:  # the pipeline draws its noise after the posterior
        torch.randn(latents.shape[1:], generator=draw)
    noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for draw in second])
    assert_close(
        objective.schedule.add_noise(latents, noise_bfchw=noise, timesteps_b=where), noised
    )
