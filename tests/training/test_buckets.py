"""Training over several sizes: real runs of the toy model, and what its batches are made of."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cogvx.errors import IntegrityError
from cogvx.files import read_document, write_document
from cogvx.objective.batch import Batches
from cogvx.objective.heldout import heldout_losses
from cogvx.objective.objective import Objective
from cogvx.objective.records import Records
from cogvx.runs.folder import RunFolder, RunSpec, TrainOutcome
from cogvx.shapes import VideoSize
from cogvx.training.__main__ import main
from cogvx.training.journal import Journal
from cogvx.training.loop import train
from cogvx.training.stop import EXIT_STOPPED, Stop
from tests.fixtures.training_runs import adapter_bits, open_trainer

NewRun = Callable[..., Path]
CPU = torch.device("cpu")
BUCKETS = ("17x32x64",)
# of 9x48x48 and of the bucket, behind the toy VAE: latent frames, height and width
SMALL, LONG = (3, 12, 12), (5, 8, 16)


@pytest.fixture(autouse=True)
def _process_state_comes_back() -> Any:
    handler = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGTERM, handler[0])
    signal.signal(signal.SIGINT, handler[1])
    torch.use_deterministic_algorithms(False)


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


def shapes_of(batches: Batches, step: int) -> set[tuple[int, ...]]:
    """Latent frames, heights and widths in all micro-batches of all processes of an update."""
    return {
        tuple(
            batches.draw(step, micro=micro, rank=rank, device=CPU).latents_bfchw.shape[i]
            for i in (1, 3, 4)
        )
        for micro in range(batches.train.accumulation)
        for rank in range(batches.train.processes)
    }


def test_every_update_is_of_one_size_and_sizes_come_by_their_share(new_run: NewRun) -> None:
    root = new_run(clips=9, global_batch=4, micro_batch=2, processes=2, buckets=BUCKETS)
    batches = batches_of(root)
    seen: Counter[tuple[int, ...]] = Counter()
    for step in range(9):
        (shape,) = shapes_of(batches, step)
        seen[shape] += 1
    assert seen == {SMALL: 5, LONG: 4}


def test_how_a_batch_is_spread_changes_nothing_in_it(new_run: NewRun) -> None:
    ways = [
        batches_of(new_run(global_batch=4, micro_batch=micro, processes=processes, buckets=BUCKETS))
        for micro, processes in ((1, 1), (4, 1), (1, 4))
    ]
    for step in range(3):
        wholes = [
            torch.cat(
                [
                    way.draw(step, micro=micro, rank=rank, device=CPU).latents_bfchw
                    for micro in range(way.train.accumulation)
                    for rank in range(way.train.processes)
                ]
            )
            for way in ways
        ]
        assert all(torch.equal(whole, wholes[0]) for whole in wholes)


def test_a_run_over_two_sizes_finishes_and_a_stop_in_it_costs_no_bit(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"clips": 5, "heldout": 4, "steps": 6, "buckets": BUCKETS, "log_every": 1}
    whole = new_run(**settings)
    assert main([str(whole)]) == 0
    outcome = read_document(RunFolder(whole).outcome, TrainOutcome)
    assert outcome.status == "completed"
    assert outcome.heldout_before is not None
    assert outcome.heldout_after is not None
    # as many updates of each size as its share of five windows asks for, in turns
    assert [shapes_of(batches_of(whole), step) for step in range(6)] == [
        {SMALL},
        {LONG},
        {SMALL},
        {LONG},
        {SMALL},
        {SMALL},
    ]

    record = Journal.record

    def and_signal(self: Journal, number: int, *rest: Any) -> None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, number, *rest)

    halved = new_run(**settings)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", and_signal)
        assert main([str(halved)]) == EXIT_STOPPED
    assert main([str(halved)]) == 0
    assert adapter_bits(halved) == adapter_bits(whole)


def test_the_loss_falls_at_both_sizes(new_run: NewRun) -> None:
    root = new_run(
        clips=2,
        heldout=2,
        steps=60,
        global_batch=2,
        micro_batch=2,
        learning_rate=1e-2,
        log_every=30,
        checkpoint_every=60,
        heldout_every=60,
        caption_dropout=0,
        buckets=BUCKETS,
    )
    trainer = open_trainer(root)
    folder = RunFolder(root)
    spec = read_document(folder.spec, RunSpec)
    train_samples = {"samples": spec.train, "records": folder.records, "strata": 4}
    objective = trainer.learner.objective
    before = heldout_losses(trainer.transformer, objective, **train_samples)
    train(trainer.learner, trainer.journal, Stop())
    after = heldout_losses(trainer.transformer, objective, **train_samples)
    for sample in spec.train:
        was, now = (
            sum(loss.loss for loss in losses if loss.clip == sample.clip)
            for losses in (before, after)
        )
        assert now < 0.97 * was, sample.size


def test_a_record_of_another_size_than_its_sample_says_is_refused(new_run: NewRun) -> None:
    root = new_run(global_batch=2, micro_batch=2, buckets=BUCKETS)
    folder = RunFolder(root)
    spec = read_document(folder.spec, RunSpec)
    claimed = tuple(
        sample.model_copy(update={"size": VideoSize(9, 48, 48)}) for sample in spec.train
    )
    write_document(folder.spec, spec.model_copy(update={"train": claimed}))
    batches = batches_of(root)
    mixed = next(
        step
        for step in range(10)
        if len({batches.sampler.clip(step, position) % 2 for position in range(2)}) == 2
    )
    with pytest.raises(IntegrityError, match="clips of different sizes meet in one batch"):
        batches.draw(mixed, micro=0, rank=0, device=CPU)
