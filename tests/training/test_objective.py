"""The objective against diffusers' own scheduler, pipeline and posterior, for every T2V kind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from cogvx.shapes import VideoSize
from cogvx.training.latents import draw_latents, mean_latents, pad_front
from cogvx.training.objective import NoiseSchedule, Objective, predict_velocity, v_loss_b
from cogvx.variants import COGVIDEOX_5B_I2V

KINDS: dict[str, dict[str, Any]] = {
    "2b": {"use_rotary_positional_embeddings": False},
    "5b": {"use_rotary_positional_embeddings": True},
    "1.5": {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False},
}
SNR_SHIFT = {"2b": 3.0, "5b": 1.0, "1.5": 1.0}
SIZE = VideoSize(frames=9, height=32, width=48)  # three latents: odd, so 1.5 pads


def scheduler_of(kind: str) -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=SNR_SHIFT[kind],
        timestep_spacing="trailing",
    )


def build_base(folder: Path, kind: str) -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=12,
        num_layers=2,
        sample_width=12 if kind != "1.5" else 20,
        sample_height=8 if kind != "1.5" else 20,
        sample_frames=9,
        patch_size=2,
        max_text_seq_length=6,
        **KINDS[kind],
    )
    transformer.save_pretrained(folder / "transformer")
    scheduler_of(kind).save_pretrained(folder / "scheduler")
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8),
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=1,
        temporal_compression_ratio=4,
        scaling_factor=0.7,
    )
    vae.save_config(folder / "vae")
    return transformer.eval()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(f"base-{kind}")
        made[kind] = (folder, build_base(folder, kind))
    return made


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_the_schedulers_own_in_float64(kind: str, bases: Any) -> None:
    schedule = NoiseSchedule.from_base(bases[kind][0])
    assert schedule.alphas_cumprod.dtype == torch.float64
    assert torch.equal(schedule.alphas_cumprod, scheduler_of(kind).alphas_cumprod)
    assert schedule.timesteps == 1000


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("5b", (1176.5, 98.0, 8.83, 1.318, 1.0)), ("2b", (392.8, 34.2, 3.68, 1.105, 1.0))],
)
def test_the_official_weights_are_the_published_constants(
    kind: str, weights: tuple[float, ...], bases: Any
) -> None:
    table = NoiseSchedule.from_base(bases[kind][0]).alphas_cumprod
    for timestep, weight in zip((0, 10, 100, 500, 999), weights, strict=True):
        assert float(1 / (1 - table[timestep])) == pytest.approx(weight, rel=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_as_strong_as_the_float64_table_says(kind: str, bases: Any) -> None:
    # A float32 table is wrong by up to 3e-5 of the noise's variance at the first timesteps.
    schedule, table = NoiseSchedule.from_base(bases[kind][0]), scheduler_of(kind).alphas_cumprod
    assert table.dtype == torch.float64
    timesteps = torch.arange(1000)
    nothing, one = torch.zeros(1000, 1, 1, 1, 1), torch.ones(1000, 1, 1, 1, 1)
    where = {"noise_bfchw": one, "timesteps_b": timesteps}
    sigma = schedule.add_noise(nothing, **where).double().flatten()
    assert torch.allclose(sigma**2, 1 - table, rtol=2e-7, atol=0)
    velocity = schedule.velocity(one, noise_bfchw=nothing, timesteps_b=timesteps)
    assert torch.equal(-velocity.double().flatten(), sigma)
    weight = {"2b": 392.8235294, "5b": 1176.4705882, "1.5": 1176.4705882}[kind]
    assert 1 / float(sigma[0]) ** 2 == pytest.approx(weight, rel=3e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_noised_latents_and_velocity_equal_diffusers(kind: str, bases: Any) -> None:
    schedule = NoiseSchedule.from_base(bases[kind][0])
    latents, noise = draws(7, 3, 4, 8, 12), draws(7, 3, 4, 8, 12, seed=1)
    timesteps = torch.tensor([0, 1, 2, 100, 500, 998, 999])
    ours = {"noise_bfchw": noise, "timesteps_b": timesteps}
    for dtype in (torch.float32, torch.float64):
        theirs = (latents.to(dtype), noise.to(dtype), timesteps)
        noised = scheduler_of(kind).add_noise(*theirs)
        velocity = scheduler_of(kind).get_velocity(*theirs)
        assert (schedule.add_noise(latents, **ours) - noised).abs().max() < 1e-5
        assert (schedule.velocity(latents, **ours) - velocity).abs().max() < 1e-5


def test_bfloat16_noising_leaves_the_first_timesteps_clean_and_ours_does_not(bases: Any) -> None:
    latents, noise = draws(2, 3, 4, 8, 12).bfloat16(), draws(2, 3, 4, 8, 12, seed=1).bfloat16()
    timesteps = torch.tensor([0, 1])
    assert torch.equal(scheduler_of("5b").add_noise(latents, noise, timesteps), latents)

    schedule = NoiseSchedule.from_base(bases["5b"][0])
    noised = schedule.add_noise(latents, noise_bfchw=noise, timesteps_b=timesteps)
    assert noised.dtype == torch.float32
    sigma = (noised - latents.float()).flatten(1).std(1)
    assert torch.allclose(sigma, (1 - schedule.alphas_cumprod[:2]).sqrt().float(), rtol=0.05)


def test_a_perfect_prediction_scores_zero_and_the_bfloat16_x0_loss_does_not(bases: Any) -> None:
    scheduler, schedule = scheduler_of("5b"), NoiseSchedule.from_base(bases["5b"][0])
    latents, noise, timesteps = draws(1, 13, 16, 20, 20), draws(1, 13, 16, 20, 20, seed=1), [2]
    where = torch.tensor(timesteps)
    velocity = schedule.velocity(latents, noise_bfchw=noise, timesteps_b=where)
    assert v_loss_b(velocity, velocity).item() == 0

    half, half_noise = latents.bfloat16(), noise.bfloat16()
    noised = scheduler.add_noise(half, half_noise, where)
    perfect = scheduler.get_velocity(half, half_noise, where)
    x0 = scheduler.get_velocity(perfect, noised, where)
    weight = 1 / (1 - scheduler.alphas_cumprod[where])
    assert float((weight * (x0 - half) ** 2).mean()) == pytest.approx(0.028, abs=0.015)


@pytest.mark.parametrize("kind", KINDS)
def test_v_loss_equals_the_official_weighted_x0_loss(kind: str, bases: Any) -> None:
    scheduler, schedule = scheduler_of(kind), NoiseSchedule.from_base(bases[kind][0])
    latents, noise, output = (draws(1, 3, 4, 8, 12, seed=seed).double() for seed in range(3))
    for timestep in (0, 1, 10, 100, 500, 998, 999):
        where = torch.tensor([timestep])
        noised = scheduler.add_noise(latents, noise, where)
        x0 = scheduler.get_velocity(output, noised, where)
        weight = 1 / (1 - scheduler.alphas_cumprod[where])
        official = float((weight * (x0 - latents) ** 2).mean())

        exact_v = scheduler.get_velocity(latents, noise, where)
        assert float((output - exact_v).square().mean()) == pytest.approx(official, rel=1e-9)
        velocity = schedule.velocity(latents, noise_bfchw=noise, timesteps_b=where)
        assert v_loss_b(output, velocity).item() == pytest.approx(official, rel=1e-5)


def test_drawn_latents_equal_diffusers_posterior() -> None:
    moments = draws(2, 8, 3, 4, 6) * 20  # log-variances beyond both bounds of the clamp
    noise = torch.randn((2, 4, 3, 4, 6), generator=torch.Generator().manual_seed(5))
    sample = DiagonalGaussianDistribution(moments).sample(torch.Generator().manual_seed(5))
    drawn = draw_latents(moments, noise, scaling_factor=0.7)
    assert torch.equal(drawn, (sample * 0.7).permute(0, 2, 1, 3, 4))
    assert drawn.shape == (2, 3, 4, 4, 6)
    mode = DiagonalGaussianDistribution(moments).mode()
    assert torch.equal(
        mean_latents(moments, scaling_factor=0.7), (mode * 0.7).permute(0, 2, 1, 3, 4)
    )


def test_half_precision_moments_are_drawn_in_float32() -> None:
    moments = draws(1, 8, 3, 4, 6).bfloat16()
    noise = draws(1, 4, 3, 4, 6, seed=1)
    assert torch.equal(
        draw_latents(moments, noise, scaling_factor=0.7),
        draw_latents(moments.float(), noise, scaling_factor=0.7),
    )


def test_padding_repeats_the_first_latent_in_front_and_only_when_needed() -> None:
    odd, even = draws(1, 21, 4, 2, 2), draws(1, 22, 4, 2, 2)
    assert torch.equal(pad_front(odd, 2), torch.cat([odd[:, :1], odd], dim=1))
    assert torch.equal(pad_front(even, 2), even)
    assert torch.equal(pad_front(odd, None), odd)


def pipeline_rotary(
    kind: str, transformer: Any, folder: Path, frames: int, size: VideoSize = SIZE
) -> Any:
    pipeline = CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKLCogVideoX.from_config(AutoencoderKLCogVideoX.load_config(folder / "vae")),
        transformer=transformer,
        scheduler=scheduler_of(kind),
    )
    if not transformer.config.use_rotary_positional_embeddings:
        return None
    return pipeline._prepare_rotary_positional_embeddings(size.height, size.width, frames, "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_positions_follow_from_the_latents_and_equal_the_pipelines(kind: str, bases: Any) -> None:
    folder, transformer = bases[kind]
    objective = Objective.of(folder)
    sizes = (SIZE, VideoSize(17, 48, 32), VideoSize(13, 32, 32), VideoSize(9, 48, 32))
    for size in (*sizes, SIZE):
        latent = objective.facts.compression.latent(size)
        latents = pad_front(
            draws(1, latent.frames, 4, latent.height, latent.width), objective.facts.patch_t
        )
        tables = objective.rotary(latents)
        assert objective.rotary(latents + 1) is tables
        expected = pipeline_rotary(kind, transformer, folder, latents.shape[1], size)
        if expected is None:
            assert tables is None
            continue
        assert tables is not None
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(tables, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_model_inputs_and_loss_equal_an_independent_computation(kind: str, bases: Any) -> None:
    folder, transformer = bases[kind]
    posterior_noise = torch.randn((2, 4, 3, 8, 12), generator=torch.Generator().manual_seed(3))
    moments, prompts = draws(2, 8, 3, 8, 12, seed=2), draws(2, 6, 12, seed=4)
    timesteps = torch.tensor([7, 801])

    # The official way: sample, scale, permute, pad in front, noise, predict, x0, weigh.
    scheduler = scheduler_of(kind)
    posterior = DiagonalGaussianDistribution(moments.double())
    sample = (posterior.mean + posterior.std * posterior_noise) * 0.7
    x0 = sample.permute(0, 2, 1, 3, 4)
    if kind == "1.5":
        x0 = torch.cat([x0[:, :1], x0], dim=1)
    noise = draws(*x0.shape, seed=6)
    noised = scheduler.add_noise(x0, noise.double(), timesteps)
    rotary = pipeline_rotary(kind, transformer, folder, x0.shape[1])
    with torch.no_grad():
        output = transformer(
            hidden_states=noised.float(),
            encoder_hidden_states=prompts,
            timestep=timesteps,
            image_rotary_emb=rotary,
        ).sample
    x0_hat = scheduler.get_velocity(output.double(), noised, timesteps)
    weight = 1 / (1 - scheduler.alphas_cumprod[timesteps]).view(-1, 1, 1, 1, 1)
    official_b = (weight * (x0_hat - x0) ** 2).flatten(1).mean(1)

    seen: dict[str, Any] = {}
    hook = transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    objective = Objective.of(folder)
    latents = pad_front(
        draw_latents(moments, posterior_noise, scaling_factor=objective.facts.scaling_factor),
        objective.facts.patch_t,
    )
    with torch.no_grad():
        loss_b = objective.loss_b(
            transformer,
            latents,
            noise_bfchw=noise,
            timesteps_b=timesteps,
            prompts_bsd=prompts,
        )
    hook.remove()
    assert (seen["hidden_states"] - noised).abs().max() < 1e-5
    assert torch.equal(seen["encoder_hidden_states"], prompts)
    assert torch.equal(seen["timestep"], timesteps)
    if rotary is None:
        assert seen["image_rotary_emb"] is None
    else:
        for ours, theirs in zip(seen["image_rotary_emb"], rotary, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(loss_b.double(), official_b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_precision_base_predicts_in_its_own_precision_and_scores_in_float32(
    kind: str, bases: Any, tmp_path: Path
) -> None:
    folder, _ = bases[kind]
    half = CogVideoXTransformer3DModel.from_pretrained(
        folder, subfolder="transformer", torch_dtype=torch.bfloat16
    )
    objective = Objective.of(folder)
    latents = pad_front(draws(1, 3, 4, 8, 12), objective.facts.patch_t)
    seen: list[torch.dtype] = []
    half.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["hidden_states"].dtype), with_kwargs=True
    )
    with torch.no_grad():
        loss_b = objective.loss_b(
            half,
            latents,
            noise_bfchw=draws(*latents.shape, seed=1),
            timesteps_b=torch.tensor([300]),
            prompts_bsd=draws(1, 6, 12),
        )
    assert seen == [torch.bfloat16]
    assert loss_b.dtype == torch.float32
    assert loss_b.isfinite().all()


def test_first_frames_are_shown_to_the_bases_that_start_from_them_and_to_no_other(
    bases: Any,
) -> None:
    folder, transformer = bases["5b"]
    rest = {
        "noisy_bfchw": draws(1, 3, 4, 8, 12),
        "timesteps_b": torch.tensor([1]),
        "prompts_bsd": draws(1, 6, 12),
        "rotary": None,
    }
    facts = Objective.of(folder).facts
    with pytest.raises(ValueError, match="do not go together"):
        predict_velocity(transformer, facts, images_bfchw=draws(1, 3, 4, 8, 12), **rest)
    i2v = replace(facts, variant=COGVIDEOX_5B_I2V)
    with pytest.raises(ValueError, match="do not go together"):
        predict_velocity(transformer, i2v, images_bfchw=None, **rest)
