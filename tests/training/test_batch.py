"""Batches: a pure function of their place, different at every position, the same on resume."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cogvx.errors import IntegrityError
from cogvx.files import read_document
from cogvx.shapes import VideoSize
from cogvx.training.batch import Batch, Batches
from cogvx.training.dataset import Records
from cogvx.training.objective import Objective
from cogvx.training.run import RunFolder, RunSpec

CPU = torch.device("cpu")
SIZE = VideoSize(9, 48, 48)
NewRun = Callable[..., Path]


def batches_of(root: Path) -> Batches:
    folder = RunFolder(root)
    spec = read_document(folder.spec, RunSpec)
    return Batches(
        records=Records(folder.records),
        samples=spec.train,
        empty_prompt=spec.empty_prompt,
        objective=Objective.of(Path(spec.base_folder)),
        train=spec.recipe.train,
    )


def whole_batch(batches: Batches, step: int) -> Batch:
    parts = [
        batches.draw(step, micro=micro, rank=rank, device=CPU)
        for micro in range(batches.train.accumulation)
        for rank in range(batches.train.processes)
    ]
    return Batch(*(torch.cat(column) for column in zip(*map(columns, parts), strict=True)))


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


def test_timesteps_are_uniform(new_run: NewRun) -> None:
    batches = batches_of(new_run(global_batch=8, micro_batch=8))
    drawn = torch.cat([whole_batch(batches, step).timesteps_b for step in range(40)])
    assert drawn.min() < 40
    assert drawn.max() > 960
    assert abs(drawn.double().mean() - 499.5) < 3 * 288.7 / len(drawn) ** 0.5


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_caption_dropout_puts_in_the_empty_caption_at_its_share(
    share: float, new_run: NewRun
) -> None:
    batches = batches_of(new_run(global_batch=8, micro_batch=8, caption_dropout=share))
    empty = batches.records.prompt(batches.empty_prompt)
    prompts = torch.cat([whole_batch(batches, step).prompts_bsd for step in range(25)])
    found = sum(torch.equal(prompt, empty) for prompt in prompts) / len(prompts)
    assert found == pytest.approx(share, abs=0.11)


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
