"""Batches: a pure function of their place, different at every position, the same on resume."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from cogvx.errors import IntegrityError
from cogvx.objective.batch import Batch, Batches
from cogvx.objective.randomness import generator
from cogvx.runs.folder import RunFolder
from tests.fixtures.family import IMAGE_MEMBERS, MEMBERS, BaseOf, Member
from tests.fixtures.training_runs import DEFAULTS, batches_of

CPU = torch.device("cpu")
NewRun = Callable[..., Path]


def whole_batch(batches: Batches, step: int) -> Batch:
    parts = [
        batches.draw(step, micro=micro, rank=rank, device=CPU)
        for micro in range(batches.train.accumulation)
        for rank in range(batches.train.processes)
    ]
    images = [part.images_bfchw for part in parts if part.images_bfchw is not None]
    joined = (torch.cat(column) for column in zip(*map(columns, parts), strict=True))
    return Batch(*joined, images_bfchw=torch.cat(images) if images else None)


def columns(batch: Batch) -> tuple[torch.Tensor, ...]:
    return (batch.latents_bfchw, batch.noise_bfchw, batch.timesteps_b, batch.prompts_bsd)


def test_how_a_batch_is_spread_changes_nothing_in_it(new_run: NewRun) -> None:
    ways = [
        batches_of(new_run(global_batch=4, micro_batch=micro, processes=processes))
        for micro, processes in ((1, 1), (4, 1), (2, 2), (1, 4))
    ]
    for step in (0, 3):
        first, *others = (columns(whole_batch(way, step)) for way in ways)
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_every_process_position_and_step_draws_its_own_noise_and_timestep(new_run: NewRun) -> None:
    batches = batches_of(new_run(global_batch=8, micro_batch=2, processes=2))
    drawn = [whole_batch(batches, step) for step in range(4)]
    noise = torch.cat([batch.noise_bfchw for batch in drawn]).flatten(1)
    assert len({tuple(row[:4].tolist()) for row in noise}) == 32
    assert len(set(torch.cat([batch.timesteps_b for batch in drawn]).tolist())) > 24
    assert (torch.corrcoef(noise) - torch.eye(32)).abs().max() < 0.2


def test_a_clip_is_drawn_afresh_every_time(new_run: NewRun) -> None:
    batches = batches_of(new_run(clips=1, global_batch=1))
    first, second = (batches.draw(step, micro=0, rank=0, device=CPU) for step in (0, 1))
    assert not torch.equal(first.latents_bfchw, second.latents_bfchw)


@pytest.mark.parametrize("size", [2, 8, 20])
def test_stratified_timesteps_take_one_from_each_part_of_the_schedule(
    size: int, new_run: NewRun
) -> None:
    batches = batches_of(new_run(global_batch=size, micro_batch=size, timesteps="stratified"))
    drawn = torch.stack([whole_batch(batches, step).timesteps_b for step in range(12)])
    assert drawn.dtype == torch.int64
    parts = drawn // (1000 // size)
    assert all(sorted(row) == list(range(size)) for row in parts.tolist())
    # no position keeps a part: every one meets low and high timesteps
    assert ((drawn.max(0).values - drawn.min(0).values) > 300).all()


def test_stratified_timesteps_are_uniform_and_less_noisy_than_each_for_itself(
    new_run: NewRun,
) -> None:
    deviations = {}
    for kind in ("uniform", "stratified"):
        batches = batches_of(new_run(global_batch=8, micro_batch=8, timesteps=kind))
        drawn = torch.stack([whole_batch(batches, step).timesteps_b for step in range(40)]).double()
        assert drawn.min() < 40
        assert drawn.max() > 960
        assert abs(drawn.mean() - 499.5) < 3 * 288.7 / drawn.numel() ** 0.5
        deviations[kind] = float(drawn.mean(1).std())
    assert deviations["stratified"] < 0.25 * deviations["uniform"]


def test_the_strata_are_of_the_global_batch_however_it_is_spread(new_run: NewRun) -> None:
    ways = [
        batches_of(
            new_run(global_batch=4, micro_batch=micro, processes=processes, timesteps="stratified")
        )
        for micro, processes in ((4, 1), (1, 1), (2, 2), (1, 4))
    ]
    drawn = [[whole_batch(way, step).timesteps_b.tolist() for step in (0, 5)] for way in ways]
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]
    assert sorted(number // 250 for number in drawn[0][0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("instead", ["empty", "zeros"])
def test_caption_dropout_puts_in_the_empty_caption_or_zeros_at_its_share(
    share: float, instead: str, new_run: NewRun
) -> None:
    batches = batches_of(
        new_run(global_batch=8, micro_batch=8, caption_dropout=share, caption_dropout_with=instead)
    )
    empty = batches.records.prompt(batches.empty_prompt)
    wanted = empty if instead == "empty" else torch.zeros_like(empty)
    prompts = torch.cat([whole_batch(batches, step).prompts_bsd for step in range(25)])
    found = sum(torch.equal(prompt, wanted) for prompt in prompts) / len(prompts)
    assert found == pytest.approx(share, abs=0.11)


def test_a_text_to_video_batch_has_no_first_frames(new_run: NewRun) -> None:
    batches = batches_of(new_run())
    assert batches.draw(0, micro=0, rank=0, device=CPU).images_bfchw is None


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_a_batch_equals_an_independent_draw_from_its_records(
    member: Member, new_run: NewRun, base_of: BaseOf
) -> None:
    scale = "divided" if member is MEMBERS[-1] else None
    root = new_run(
        base_of(member),
        size=member.size,
        image_latent_scale=scale,
        image_dropout=0.0,
        caption_dropout=0.0,
        global_batch=4,
        micro_batch=4,
    )
    batches, factor, chosen = batches_of(root), member.scaling_factor, set()
    for step in range(4):
        batch = batches.draw(step, micro=0, rank=0, device=CPU)
        for position in range(4):
            sample = batches.samples[batches.sampler.clip(step, position)]
            draw = partial(draw_of, step, position)
            x0 = diffusers_sample(batches.records.moments(sample), draw("posterior")) * factor
            if member.patch_t:
                x0 = torch.cat([x0[:1], x0])
            assert torch.allclose(batch.latents_bfchw[position], x0, atol=1e-6)
            noise = torch.randn(x0.shape, generator=draw("noise"))
            assert torch.equal(batch.noise_bfchw[position], noise)
            prompt = batches.records.prompt(sample.prompt)
            assert torch.equal(batch.prompts_bsd[position], prompt)
            assert (batch.images_bfchw is not None) == member.image_to_video
            if batch.images_bfchw is None:
                continue
            number = int(torch.randint(3, (), generator=draw("image")))
            chosen.add(number)
            image = batches.records.image(sample, number)
            z = diffusers_sample(image, draw("image posterior"))
            track = torch.zeros_like(x0)
            track[:1] = z / factor if scale else z * factor
            assert torch.allclose(batch.images_bfchw[position], track, atol=1e-6)
    assert chosen == ({0, 1, 2} if member.image_to_video else set())


def draw_of(step: int, position: int, purpose: str) -> torch.Generator:
    return generator(DEFAULTS["seed"], purpose, step, position)


def diffusers_sample(moments_cfhw: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """What diffusers draws, in the transformer's order of axes, unscaled."""
    posterior = DiagonalGaussianDistribution(moments_cfhw.unsqueeze(0))
    return posterior.sample(draw)[0].permute(1, 0, 2, 3)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_image_dropout_hides_single_first_frames_at_its_share(
    share: float, new_run: NewRun, base_of: BaseOf
) -> None:
    member = IMAGE_MEMBERS[0]
    root = new_run(
        base_of(member), size=member.size, image_dropout=share, global_batch=8, micro_batch=8
    )
    batches = batches_of(root)
    drawn = [whole_batch(batches, step).images_bfchw for step in range(25)]
    hidden = [[not image.any() for image in images] for images in drawn if images is not None]
    assert sum(map(sum, hidden)) / 200 == pytest.approx(share, abs=0.11)
    if share:
        assert any(0 < sum(row) < 8 for row in hidden)


def test_a_first_frame_of_another_size_is_refused(new_run: NewRun, base_of: BaseOf) -> None:
    member = IMAGE_MEMBERS[0]
    root = new_run(base_of(member), size=member.size, image_dropout=0.0, clips=1, global_batch=1)
    batches = batches_of(root)
    (sample,) = batches.samples
    whole = replace(batches, samples=(sample.model_copy(update={"images": (sample.latents,)}),))
    with pytest.raises(IntegrityError, match=f"record {sample.latents} is .* no first frame of"):
        whole.draw(0, micro=0, rank=0, device=CPU)


def test_a_damaged_or_absent_record_is_refused_by_name(new_run: NewRun) -> None:
    root = new_run()
    batches = batches_of(root)
    name = batches.samples[0].latents
    path = RunFolder(root).record(name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"record {name} is damaged"):
        batches.records.moments(batches.samples[0])
    path.unlink()
    with pytest.raises(IntegrityError, match=f"lacks record {name}; materialise it again"):
        batches.records.moments(batches.samples[0])
    with pytest.raises(IntegrityError, match="lacks 1 record"):
        batches.records.require([name, batches.empty_prompt])
