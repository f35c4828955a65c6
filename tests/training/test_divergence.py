"""Losses that are no numbers: skipped by all processes alike, counted, told, at last fatal."""

import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogvx.cache.keys import LatentKey
from cogvx.cache.records import pack_latents, unpack
from cogvx.errors import TrainingDiverged
from cogvx.files import read_document, write_bytes
from cogvx.objective.randomness import generator
from cogvx.runs.events import Event, history
from cogvx.runs.folder import RunFolder, RunSpec, Sample, TrainOutcome
from cogvx.runs.saved import CheckpointState, Pointer
from cogvx.runs.tally import Seen
from cogvx.training.__main__ import main
from cogvx.training.divergence import Skip, Skips
from cogvx.training.loop import accumulate, train, update
from cogvx.training.stop import EXIT_STOPPED, Stop
from tests.fixtures.forks import Forks
from tests.fixtures.training_runs import adapter_bits, open_trainer
from tests.training.ranks import TRAINER, start
from tests.training.stops import stop_after

NewRun = Callable[..., Path]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _process_state_comes_back() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.use_deterministic_algorithms(False)


def poison(root: Path, *clips: int, mean: float = INF) -> Path:
    """Give clips a record in which one number is infinite, as a broken encoder might write it."""
    folder = RunFolder(root)
    spec = read_document(folder.spec, RunSpec)
    for clip in clips:
        sample = (*spec.train, *spec.heldout)[clip]
        path = folder.record(sample.latents)
        moments_cfhw = unpack(path.read_bytes(), sample.latents)
        moments_cfhw[0, 0, 0, 0] = mean
        write_bytes(path, pack_latents(key_of(sample, clip), moments_cfhw))
    return root


def key_of(sample: Sample, clip: int) -> LatentKey:
    return LatentKey(
        source_sha256=f"{clip:064x}",
        start_frame=0,
        fps=8,
        size=sample.size,
        crop="centre",
        flip=False,
        vae_fingerprint="vae",
        dtype="float32",
        tiling=False,
    )


def outcome_of(root: Path) -> TrainOutcome:
    return read_document(RunFolder(root).outcome, TrainOutcome)


def skipped(root: Path) -> list[Event]:
    events = history(RunFolder(root).events)
    return [event for event in events if event["kind"] == "skipped"]


def skipped_steps(root: Path) -> list[int]:
    return [update["step"] for event in skipped(root) for update in event["updates"]]


def state_of(root: Path, step: int) -> CheckpointState:
    path = RunFolder(root).checkpoints / f"step-{step:08d}" / "state.json"
    return read_document(path, CheckpointState)


SETTINGS: dict[str, Any] = {"clips": 8, "steps": 8, "ema_decay": 0.9, "log_every": 4}


@pytest.fixture(scope="module")
def one_bad(new_run: NewRun) -> Path:
    root = poison(new_run(**SETTINGS), 3)
    assert main([str(root)]) == 0
    return root


def test_one_bad_clip_among_many_costs_its_updates_and_no_more(one_bad: Path) -> None:
    outcome = outcome_of(one_bad)
    assert (outcome.status, outcome.step) == ("completed", 8)
    assert outcome.train_loss is not None
    # two clips an update: four updates are an epoch, so one in four is lost
    assert len(skipped_steps(one_bad)) == 2
    assert [(step - 1) // 4 for step in skipped_steps(one_bad)] == [0, 1]
    state = state_of(one_bad, 8)
    assert (state.progress.skipped, state.progress.skipped_in_a_row) in ((2, 0), (2, 1))
    for update_ in skipped(one_bad)[0]["updates"]:
        assert update_["reason"] == "the loss is nan"
    assert skipped(one_bad)[-1]["total"] == 2
    folder = RunFolder(one_bad).checkpoints / "step-00000008"
    for name in ("lora", "ema"):
        assert all(t.isfinite().all() for t in load_file(folder / f"{name}.safetensors").values())
    moments = load_file(folder / "optimiser.safetensors")
    assert {moments[name].item() for name in moments if name.endswith("/step")} == {6.0}
    assert load_file(folder / "ema.safetensors")["updates"].item() == 6


@pytest.mark.parametrize("step", [1, 6])
def test_a_stop_among_skipped_updates_costs_no_bit_and_tells_nothing_twice(
    step: int, one_bad: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = poison(new_run(**SETTINGS), 3)
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        assert main([str(root)]) == EXIT_STOPPED
    assert main([str(root)]) == 0
    assert adapter_bits(root) == adapter_bits(one_bad)
    assert skipped_steps(root) == skipped_steps(one_bad)
    assert outcome_of(root).train_loss == outcome_of(one_bad).train_loss
    ours, theirs = (state_of(each, 8).progress for each in (root, one_bad))
    assert replace_seconds(ours) == replace_seconds(theirs)


def replace_seconds(progress: Any) -> Any:
    return progress.model_copy(update={"seconds": 0.0})


def test_a_clip_that_only_one_process_sees_is_skipped_by_both(
    one_bad: Path, new_run: NewRun, trainers: Forks
) -> None:
    root = poison(new_run(**SETTINGS, processes=2), 3)
    start(trainers, TRAINER, str(root), processes=2, cwd=root).succeed()
    assert skipped_steps(root) == skipped_steps(one_bad)
    # the second process measured the second held-out clip, with its own weights
    both, one = outcome_of(root), outcome_of(one_bad)
    assert both.heldout_after == pytest.approx(one.heldout_after, rel=1e-5)
    assert both.train_loss == pytest.approx(one.train_loss, rel=1e-5)
    assert state_of(root, 8).progress.skipped == 2
    for name in ("lora", "ema"):
        ours, theirs = (
            load_file(RunFolder(each).checkpoints / "step-00000008" / f"{name}.safetensors")
            for each in (root, one_bad)
        )
        for key, tensor in theirs.items():
            assert (ours[key] - tensor).float().norm() <= 1e-3 * tensor.float().norm()


def test_a_skipped_update_moves_nothing(new_run: NewRun) -> None:
    trainer = open_trainer(poison(new_run(ema_decay=0.9), 0, 1, 2, 3))
    learner = trainer.learner
    assert learner.ema is not None
    before = [parameter.detach().clone() for parameter in learner.parameters]
    mean = learner.ema.state()
    with learner.feed:
        accumulate(learner, 0)
    assert not update(learner, 0).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))
    assert all(torch.equal(value, mean[name]) for name, value in learner.ema.state().items())
    assert not learner.optimiser.state
    assert all(parameter.grad is None for parameter in learner.parameters)


def test_too_many_in_a_row_end_the_run_and_keep_the_checkpoint_of_before(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_run(steps=12, max_skipped=2, log_every=1, checkpoint_every=12)
    folder = RunFolder(root)
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        assert main([str(root)]) == EXIT_STOPPED
    before = (folder.checkpoints / "step-00000004" / "lora.safetensors").read_bytes()
    poison(root, 0, 1, 2, 3)
    assert main([str(root)]) == TrainingDiverged.exit_code
    outcome = outcome_of(root)
    assert (outcome.status, outcome.error_kind) == ("failed", "TrainingDiverged")
    assert outcome.error == (
        "the loss is nan at step 7, and 3 update(s) in a row were skipped like it, which is more "
        "than train.max_skipped = 2; the last good checkpoint is kept. Lower train.learning_rate, "
        "lengthen train.warmup_steps, or check base.dtype"
    )
    assert read_document(folder.latest, Pointer).step == 4
    assert [path.name for path in folder.checkpoints.glob("step-*")] == ["step-00000004"]
    assert (folder.checkpoints / "step-00000004" / "lora.safetensors").read_bytes() == before
    assert not folder.adapter_file.exists()
    assert skipped_steps(root) == [5, 6]


def test_what_was_skipped_before_a_stop_counts_after_it(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = poison(new_run(steps=12, max_skipped=4, log_every=1), 0, 1, 2, 3)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        assert main([str(root)]) == EXIT_STOPPED
    assert state_of(root, 3).progress.skipped_in_a_row == 3
    assert main([str(root)]) == TrainingDiverged.exit_code
    assert "the loss is nan at step 5, and 5 update(s) in a row" in str(outcome_of(root).error)


def test_a_held_out_clip_that_cannot_be_measured_is_named_before_any_training(
    new_run: NewRun,
) -> None:
    root = poison(new_run(), 5)
    assert main([str(root)]) == TrainingDiverged.exit_code
    outcome = outcome_of(root)
    assert outcome.step == 0
    assert str(outcome.error).startswith("the held-out loss of 5.mp4 at timestep 250 is nan after")
    assert "remove the clip" in str(outcome.error)


def test_an_infinite_loss_with_a_finite_gradient_is_no_update_either(new_run: NewRun) -> None:
    """At the last timestep nothing of the clip is left in the input, but all of it in the target.

    3e19 squared is more than float32 holds, and its derivative is not.
    """
    root = poison(new_run(global_batch=1, caption_dropout=0), 0, 1, 2, 3, mean=3e19)
    trainer = open_trainer(root)
    learner = trainer.learner
    batches = trainer.journal.watch.batches
    step = next(
        step
        for step in range(20_000)
        if torch.randint(1000, (1,), generator=generator(7, "timestep", step, 0)) == 999
    )
    batch = batches.draw(step, micro=0, rank=0, device=torch.device("cpu"))
    assert batch.timesteps_b.item() == 999
    loss_b = learner.objective.loss_b(
        learner.model,
        batch.latents_bfchw,
        noise_bfchw=batch.noise_bfchw,
        timesteps_b=batch.timesteps_b,
        prompts_bsd=batch.prompts_bsd,
    )
    gradients = torch.autograd.grad(loss_b.mean(), learner.parameters)
    assert loss_b.item() == INF
    assert all(gradient.isfinite().all() for gradient in gradients)  # so it would have been applied

    before = [parameter.detach().clone() for parameter in learner.parameters]
    with learner.feed:
        accumulate(learner, step)
    assert not update(learner, step).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))


def test_a_scaler_that_looks_for_its_scale_may_skip_more_often(new_run: NewRun) -> None:
    root = poison(new_run(steps=40, max_skipped=2, log_every=1, heldout=0), 0, 1, 2, 3)
    trainer = open_trainer(root)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
    learner = replace(trainer.learner, scaler=scaler)
    readings = trainer.journal.readings
    readings.watch = replace(readings.watch, scaler=scaler)
    with learner.feed, pytest.raises(TrainingDiverged, match="at step 6, and 6 update"):
        train(learner, trainer.journal, Stop())
    assert scaler.get_scale() == 1.0


def seen(*norms: float, loss: float = 1.0) -> list[Seen]:
    return [Seen(losses=[loss], timesteps=[1], grad_norm=norm) for norm in norms]


def test_only_updates_in_a_row_add_up() -> None:
    skips, found = Skips().plus(seen(1, NAN, NAN, 1, INF), last_step=5, most=2)
    assert skips == Skips(total=3, in_a_row=1)
    assert found == (
        Skip(2, "the gradient's norm is nan"),
        Skip(3, "the gradient's norm is nan"),
        Skip(5, "the gradient's norm is inf"),
    )
    skips, _ = skips.plus(seen(INF), last_step=6, most=2)
    with pytest.raises(TrainingDiverged, match="norm is inf at step 7, and 3 update"):
        skips.plus(seen(INF, 1), last_step=8, most=2)
    assert skips.plus(seen(INF, 1), last_step=8, most=math.inf)[0] == Skips(5, 0)


def test_no_skip_is_borne_where_none_may_be() -> None:
    with pytest.raises(TrainingDiverged, match=r"more than train\.max_skipped = 0"):
        Skips().plus(seen(NAN), last_step=1, most=0)


def test_a_loss_that_is_no_number_is_named_before_the_gradient() -> None:
    _, (skip,) = Skips().plus(seen(NAN, loss=INF), last_step=1, most=1)
    assert skip.reason == "the loss is inf"
