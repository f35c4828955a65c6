"""The objective against diffusers' own scheduler and posterior, for every member of the family.

That its inputs and its loss are right as a whole is in tests/parity.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import compute_snr

from cogvx.errors import ConfigError
from cogvx.objective.latents import draw_latents, image_track, mean_latents, pad_front
from cogvx.objective.noise import NoiseSchedule
from cogvx.objective.objective import Objective, predict_velocity, v_loss_b
from cogvx.shapes import LatentSize
from cogvx.training.loop import accumulate
from tests.fixtures.family import MEMBERS, BaseOf, Member, draws, scheduler_of
from tests.fixtures.training_runs import batches_of, open_trainer

NewRun = Callable[..., Path]
TWO_B, FIVE_B, FIVE_B_I2V, V15, V15_I2V = MEMBERS
EVERY = pytest.mark.parametrize("member", MEMBERS, ids=str)


def objective_of(member: Member, base_of: BaseOf, **settings: float) -> Objective:
    scale = "raw" if member is V15_I2V else None
    return Objective.of(base_of(member), image_scale=scale, **settings)


@EVERY
def test_the_table_is_the_schedulers_own_in_float64(member: Member, base_of: BaseOf) -> None:
    schedule = NoiseSchedule.from_base(base_of(member))
    assert schedule.alphas_cumprod.dtype == torch.float64
    assert torch.equal(schedule.alphas_cumprod, scheduler_of(member).alphas_cumprod)
    assert schedule.timesteps == 1000


@pytest.mark.parametrize(
    ("member", "weights"),
    [(FIVE_B, (1176.5, 98.0, 8.83, 1.318, 1.0)), (TWO_B, (392.8, 34.2, 3.68, 1.105, 1.0))],
    ids=str,
)
def test_the_official_weights_are_the_published_constants(
    member: Member, weights: tuple[float, ...], base_of: BaseOf
) -> None:
    table = NoiseSchedule.from_base(base_of(member)).alphas_cumprod
    for timestep, weight in zip((0, 10, 100, 500, 999), weights, strict=True):
        assert float(1 / (1 - table[timestep])) == pytest.approx(weight, rel=2e-3)


@EVERY
def test_noise_is_as_strong_as_the_float64_table_says(member: Member, base_of: BaseOf) -> None:
    # A float32 table is wrong by up to 3e-5 of the noise's variance at the first timesteps.
    schedule, table = NoiseSchedule.from_base(base_of(member)), scheduler_of(member).alphas_cumprod
    assert table.dtype == torch.float64
    timesteps = torch.arange(1000)
    nothing, one = torch.zeros(1000, 1, 1, 1, 1), torch.ones(1000, 1, 1, 1, 1)
    where = {"noise_bfchw": one, "timesteps_b": timesteps}
    sigma = schedule.add_noise(nothing, **where).double().flatten()
    assert torch.allclose(sigma**2, 1 - table, rtol=2e-7, atol=0)
    velocity = schedule.velocity(one, noise_bfchw=nothing, timesteps_b=timesteps)
    assert torch.equal(-velocity.double().flatten(), sigma)
    weight = 392.8235294 if member is TWO_B else 1176.4705882
    assert 1 / float(sigma[0]) ** 2 == pytest.approx(weight, rel=3e-7)


@EVERY
def test_noised_latents_and_velocity_equal_diffusers(member: Member, base_of: BaseOf) -> None:
    schedule = NoiseSchedule.from_base(base_of(member))
    latents, noise = draws(7, 3, 4, 8, 12), draws(7, 3, 4, 8, 12, seed=1)
    timesteps = torch.tensor([0, 1, 2, 100, 500, 998, 999])
    ours = {"noise_bfchw": noise, "timesteps_b": timesteps}
    for dtype in (torch.float32, torch.float64):
        theirs = (latents.to(dtype), noise.to(dtype), timesteps)
        noised = scheduler_of(member).add_noise(*theirs)
        velocity = scheduler_of(member).get_velocity(*theirs)
        assert (schedule.add_noise(latents, **ours) - noised).abs().max() < 1e-5
        assert (schedule.velocity(latents, **ours) - velocity).abs().max() < 1e-5


def test_bfloat16_noising_leaves_the_first_timesteps_clean_and_ours_does_not(
    base_of: BaseOf,
) -> None:
    latents, noise = draws(2, 3, 4, 8, 12).bfloat16(), draws(2, 3, 4, 8, 12, seed=1).bfloat16()
    timesteps = torch.tensor([0, 1])
    assert torch.equal(scheduler_of(FIVE_B).add_noise(latents, noise, timesteps), latents)

    schedule = NoiseSchedule.from_base(base_of(FIVE_B))
    noised = schedule.add_noise(latents, noise_bfchw=noise, timesteps_b=timesteps)
    assert noised.dtype == torch.float32
    sigma = (noised - latents.float()).flatten(1).std(1)
    assert torch.allclose(sigma, (1 - schedule.alphas_cumprod[:2]).sqrt().float(), rtol=0.05)


def test_a_perfect_prediction_scores_zero_and_the_bfloat16_x0_loss_does_not(
    base_of: BaseOf,
) -> None:
    scheduler, schedule = scheduler_of(FIVE_B), NoiseSchedule.from_base(base_of(FIVE_B))
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


@EVERY
def test_v_loss_equals_the_official_weighted_x0_loss(member: Member, base_of: BaseOf) -> None:
    scheduler, schedule = scheduler_of(member), NoiseSchedule.from_base(base_of(member))
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


def test_a_first_frame_stands_first_over_the_padding_too() -> None:
    image = draws(2, 1, 4, 2, 2)
    track = image_track(image, 22)
    assert track.shape == (2, 22, 4, 2, 2)
    assert torch.equal(track[:, :1], image)
    assert not track[:, 1:].any()


@EVERY
def test_a_half_precision_base_predicts_in_its_own_precision_and_scores_in_float32(
    member: Member, base_of: BaseOf
) -> None:
    half = CogVideoXTransformer3DModel.from_pretrained(
        base_of(member), subfolder="transformer", torch_dtype=torch.bfloat16
    )
    objective = objective_of(member, base_of)
    latent = objective.facts.compression.latent(member.size)
    shape = (4, latent.height, latent.width)
    latents = pad_front(draws(1, latent.frames, *shape), objective.facts.patch_t)
    seen: list[torch.dtype] = []
    half.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["hidden_states"].dtype), with_kwargs=True
    )
    frames = latents.shape[1]
    with torch.no_grad():
        loss_b = objective.loss_b(
            half,
            latents,
            noise_bfchw=draws(*latents.shape, seed=1),
            timesteps_b=torch.tensor([300]),
            prompts_bsd=draws(1, 6, 12),
            images_bfchw=image_track(draws(1, 1, *shape), frames)
            if member.image_to_video
            else None,
        )
    assert seen == [torch.bfloat16]
    assert loss_b.dtype == torch.float32
    assert loss_b.isfinite().all()


def test_positions_are_made_once_for_each_size(base_of: BaseOf) -> None:
    objective = objective_of(V15, base_of)
    small, large = draws(1, 6, 4, 8, 12), draws(2, 4, 4, 12, 8)
    tables = objective.rotary(small)
    assert objective.rotary(large) is not tables
    assert objective.rotary(small + 1) is tables


@pytest.mark.parametrize("latent", [LatentSize(5, 8, 12), LatentSize(3, 12, 8)], ids=str)
def test_learned_positions_are_never_replaced_at_another_size(
    latent: LatentSize, base_of: BaseOf
) -> None:
    objective = objective_of(FIVE_B_I2V, base_of)
    latents = draws(1, latent.frames, 4, latent.height, latent.width)
    said = r"clip, but CogVideoX-5b-I2V has positions for 9x32x48 only"
    with pytest.raises(ConfigError, match=said):
        objective.rotary(latents)
    assert objective.rotary(draws(1, 3, 4, 8, 12)) is not None


@pytest.mark.parametrize(("member", "shown"), [(FIVE_B, True), (FIVE_B_I2V, False)], ids=str)
def test_first_frames_are_shown_to_the_bases_that_start_from_them_and_to_no_other(
    member: Member, shown: bool, base_of: BaseOf
) -> None:
    latents = draws(1, 3, 4, 8, 12)
    with pytest.raises(ValueError, match=f"{member.name} and images_bfchw do not go together"):
        predict_velocity(
            CogVideoXTransformer3DModel.from_pretrained(base_of(member) / "transformer"),
            objective_of(member, base_of).facts,
            noisy_bfchw=latents,
            images_bfchw=latents if shown else None,
            timesteps_b=torch.tensor([1]),
            prompts_bsd=draws(1, 6, 12),
            rotary=None,
        )


@EVERY
def test_min_snr_weighs_as_its_formula_over_diffusers_ratio_of_signal_to_noise(
    member: Member, base_of: BaseOf
) -> None:
    timesteps = torch.arange(1000)
    snr = compute_snr(scheduler_of(member), timesteps).double()
    weights = objective_of(member, base_of, min_snr_gamma=5.0).weights_b(timesteps)
    assert torch.allclose(weights.double(), snr.clamp(max=5) / (snr + 1), rtol=1e-5, atol=1e-9)
    assert weights.isfinite().all()
    assert weights[999] == 0
    assert 0 < weights[0] < 0.05
    everywhere = objective_of(member, base_of).weights_b(timesteps)
    assert torch.equal(everywhere, torch.ones(1000))


def test_min_snr_weighs_the_gradient_and_not_what_is_logged(new_run: NewRun) -> None:
    root = new_run(min_snr_gamma=5.0, global_batch=4, micro_batch=2)
    learner = open_trainer(root).learner
    for parameter in learner.parameters:  # B starts at zero, and then A has no gradient
        parameter.data += 0.01
    logged_b = accumulate(learner, 0).loss_b
    found = [parameter.grad.clone() for parameter in learner.parameters]
    learner.optimiser.zero_grad()

    losses, weighted = [], []
    for micro in range(2):
        part = batches_of(root).draw(0, micro=micro, rank=0, device=torch.device("cpu"))
        loss_b = learner.objective.loss_b(
            learner.model,
            part.latents_bfchw,
            noise_bfchw=part.noise_bfchw,
            timesteps_b=part.timesteps_b,
            prompts_bsd=part.prompts_bsd,
        )
        snr_b = compute_snr(scheduler_of(FIVE_B), part.timesteps_b).float()
        losses.append(loss_b.detach())
        weighted.append(loss_b * snr_b.clamp(max=5) / (snr_b + 1))
    torch.cat(weighted).mean().backward()
    assert torch.equal(logged_b, torch.cat(losses))
    for grad, parameter in zip(found, learner.parameters, strict=True):
        assert torch.allclose(grad, parameter.grad, rtol=1e-4, atol=1e-7)
