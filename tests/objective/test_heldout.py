"""The held-out loss: fixed, the same for whoever measures, and without a trace."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXDPMScheduler

from cogvx.files import read_document
from cogvx.model.load import load_transformer
from cogvx.model.lora import attach_lora
from cogvx.model.rotary import rotary_tables
from cogvx.objective.heldout import (
    HeldoutLoss,
    by_clip,
    heldout_losses,
    heldout_timesteps,
    mean_loss,
)
from cogvx.objective.objective import Objective
from cogvx.objective.randomness import generator
from cogvx.objective.records import Records
from cogvx.runs.folder import RunFolder, RunSpec
from tests.fixtures.family import IMAGE_MEMBERS, BaseOf, Member, pipeline_of
from tests.fixtures.training_runs import batches_of

NewRun = Callable[..., Path]


@pytest.fixture(scope="module")
def world(new_run: NewRun) -> tuple[RunFolder, RunSpec, Objective]:
    folder = RunFolder(new_run())
    spec = read_document(folder.spec, RunSpec)
    return folder, spec, Objective.of(Path(spec.base_folder))


def measured(
    world: tuple[RunFolder, RunSpec, Objective], transformer: torch.nn.Module, **changes: object
) -> tuple[HeldoutLoss, ...]:
    folder, spec, objective = world
    wanted = {"samples": spec.heldout, "records": folder.records, "strata": 3, **changes}
    return heldout_losses(transformer, objective, **wanted)


def test_timesteps_are_the_middles_of_equal_parts() -> None:
    assert heldout_timesteps(1000, 8) == (62, 187, 312, 437, 562, 687, 812, 937)
    assert heldout_timesteps(1000, 1) == (500,)
    assert heldout_timesteps(1000, 1000) == tuple(range(1000))


def test_losses_equal_an_independent_computation(
    world: tuple[RunFolder, RunSpec, Objective], nano_base: Path
) -> None:
    folder, spec, objective = world
    transformer = load_transformer(nano_base, dtype="float32")
    losses = measured(world, transformer)
    scheduler = CogVideoXDPMScheduler.from_pretrained(nano_base, subfolder="scheduler")
    rotary = rotary_tables(objective.facts, spec.recipe.video.size, "cpu")
    read = Records(folder.records)
    expected = []
    for sample in spec.heldout:
        mean = read.moments(sample).chunk(2)[0] * objective.facts.scaling_factor
        x0 = mean.permute(1, 0, 2, 3).unsqueeze(0)
        for timestep in (166, 500, 833):
            noise = torch.randn(x0.shape, generator=generator(sample.latents, "heldout", timestep))
            where = torch.tensor([timestep])
            with torch.no_grad():
                output = transformer(
                    scheduler.add_noise(x0, noise, where),
                    read.prompt(sample.prompt).unsqueeze(0),
                    where,
                    image_rotary_emb=rotary,
                ).sample
            loss = torch.nn.functional.mse_loss(output, scheduler.get_velocity(x0, noise, where))
            expected.append(HeldoutLoss(sample.clip, timestep, loss.item()))
    assert [(loss.clip, loss.timestep) for loss in losses] == [
        (loss.clip, loss.timestep) for loss in expected
    ]
    for ours, theirs in zip(losses, expected, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)


@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_an_image_base_is_measured_with_the_first_draw_of_every_first_frame(
    member: Member, new_run: NewRun, base_of: BaseOf
) -> None:
    base, factor = base_of(member), 0.7
    root = new_run(
        base,
        size=member.size,
        image_latent_scale="raw" if member.patch_t else None,
        image_dropout=0.9,
        caption_dropout=0.9,
        min_snr_gamma=5.0,
    )
    spec, records = RunFolder(root).read_spec(), Records(RunFolder(root).records)
    pipeline = pipeline_of(base, member)
    losses = heldout_losses(
        pipeline.transformer,
        batches_of(root).objective,
        samples=spec.heldout,
        records=records.folder,
        strata=1,
    )
    for sample, loss in zip(spec.heldout, losses, strict=True):
        x0 = records.moments(sample).chunk(2)[0].permute(1, 0, 2, 3).unsqueeze(0) * factor
        image = records.image(sample, 0).chunk(2)[0].permute(1, 0, 2, 3).unsqueeze(0)
        image = image if member.patch_t else image * factor
        if member.patch_t:
            x0 = torch.cat([x0[:, :1], x0], dim=1)
        noise = torch.randn(x0.shape, generator=generator(sample.latents, "heldout", 500))
        where = torch.tensor([500])
        noised = pipeline.scheduler.add_noise(x0, noise, where)
        track = torch.cat([image, torch.zeros_like(x0[:, 1:])], dim=1)
        rotary = pipeline._prepare_rotary_positional_embeddings(
            member.size.height, member.size.width, x0.shape[1], "cpu"
        )
        with torch.no_grad():
            output = pipeline.transformer(
                torch.cat([noised, track], dim=2),
                records.prompt(sample.prompt).unsqueeze(0),
                where,
                ofs=torch.tensor([2.0]) if member.patch_t else None,
                image_rotary_emb=rotary,
            ).sample
        velocity = pipeline.scheduler.get_velocity(x0, noise, where)
        expected = torch.nn.functional.mse_loss(output, velocity).item()
        assert (loss.clip, loss.timestep) == (sample.clip, 500)
        assert loss.loss == pytest.approx(expected, rel=1e-5)


def test_an_untrained_adapter_measures_exactly_as_the_bare_base(
    world: tuple[RunFolder, RunSpec, Objective], nano_base: Path
) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    bare = measured(world, transformer)
    attach_lora(transformer, world[1].recipe.lora, seed=3)
    assert measured(world, transformer) == bare


def test_measuring_leaves_random_state_and_weights_alone_and_does_not_depend_on_them(
    world: tuple[RunFolder, RunSpec, Objective], nano_base: Path
) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = measured(world, transformer)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert measured(world, transformer) == first
    assert all(torch.equal(before[name], now) for name, now in transformer.state_dict().items())
    assert all(parameter.grad is None for parameter in transformer.parameters())


def test_each_clip_meets_its_own_noise_whatever_else_is_measured(
    world: tuple[RunFolder, RunSpec, Objective], nano_base: Path
) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    together = measured(world, transformer)
    alone = measured(world, transformer, samples=world[1].heldout[1:])
    assert alone == together[3:]


def test_other_draws_are_other_noise_and_the_first_is_what_it_always_was(
    world: tuple[RunFolder, RunSpec, Objective], nano_base: Path
) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    usual = measured(world, transformer)
    assert measured(world, transformer, draw=0) == usual
    first, second = (measured(world, transformer, draw=draw) for draw in (1, 2))
    for one, two, three in zip(usual, first, second, strict=True):
        assert len({one.loss, two.loss, three.loss}) == 3
        assert one.loss == pytest.approx(two.loss, rel=0.5)
    assert measured(world, transformer, draw=1) == first


def test_progress_is_told_and_the_mean_is_over_all(
    world: tuple[RunFolder, RunSpec, Objective], nano_base: Path
) -> None:
    told: list[tuple[int, int]] = []
    transformer = load_transformer(nano_base, dtype="float32")
    losses = measured(
        world, transformer, strata=1, on_progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]
    assert mean_loss(losses) == pytest.approx(sum(loss.loss for loss in losses) / 2)
    with pytest.raises(ValueError, match="no held-out losses"):
        mean_loss([])


def test_windows_of_one_clip_count_as_one() -> None:
    losses = [
        HeldoutLoss("long.mp4", 100, 1.0),
        HeldoutLoss("long.mp4", 900, 3.0),
        HeldoutLoss("short.mp4", 100, 5.0),
        HeldoutLoss("long.mp4", 100, 2.0),
        HeldoutLoss("long.mp4", 900, 5.0),
    ]
    assert by_clip(losses) == (
        HeldoutLoss("long.mp4", 100, 1.5),
        HeldoutLoss("long.mp4", 900, 4.0),
        HeldoutLoss("short.mp4", 100, 5.0),
    )
    alone = losses[:3]
    assert by_clip(alone) == tuple(alone)
